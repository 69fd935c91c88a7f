"""Health checks: the liveness probe `<prefix>livez` and the readiness probe `<prefix>readyz`.

The paths have no trailing slash. The content of a distribution (or, with domains, a domain) of that
name is at and below `<prefix>livez/`, and without the slash there would only be a redirect, so that
the probes hide no content.
"""

import asyncio
from pathlib import Path
from typing import TypedDict

from anyio import to_thread
from django.db import Error
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.cache.stale import StaleResponses
from pulpcore.content_star.cache.store import STARTING, TURNED_OFF, ResponseCache
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.database.working_directory import working_directory_problem
from pulpcore.content_star.listings.negotiation import prefers_json
from pulpcore.content_star.plugin_host import discovery
from pulpcore.content_star.plugin_host.discovery import PluginStatus
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.responses.text import compress
from pulpcore.plugin.models import Domain

# Seconds for the check of database and storage. Orchestrators time out sooner; the response is for
# operators who look for the cause.
DEADLINE = 5.0

HEADERS = {"Cache-Control": "no-store", "Vary": "Accept"}

FILE_SYSTEM = "pulpcore.app.models.storage.FileSystem"


class Readiness(TypedDict):
    """Readiness, and the public status of the content app."""

    ready: bool
    problem: str | None
    cache: str
    plugins: list[PluginStatus]


class Health:
    """ASGI middleware that responds to the probes."""

    def __init__(
        self,
        app: ASGIApp,
        executor: DatabaseExecutor,
        prefix: str,
        cache: ResponseCache | None = None,
        stale: StaleResponses | None = None,
        runs_tasks: bool = False,
    ) -> None:
        """`prefix` of the content app begins and ends with a slash.

        `runs_tasks`: whether the process serves the API too, which runs immediate tasks.
        """
        self.app = app
        self.runs_tasks = runs_tasks
        self.executor = executor
        self.cache = cache
        self.stale = stale
        self.paths = {f"{prefix}livez": self.live, f"{prefix}readyz": self.ready}
        self._check: asyncio.Task[str | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            probe = self.paths.get(scope["path"].removeprefix(scope.get("root_path", "")))
            if probe is not None:
                request_info(scope).route = probe.__name__ + "z"
                return await (await probe(Request(scope)))(scope, receive, send)
        await self.app(scope, receive, send)

    async def live(self, request: Request) -> Response:
        """Respond 200: the event loop runs.

        The database is not checked, since restarting the process would not repair it.
        """
        return text_probe_response(None)

    async def ready(self, request: Request) -> Response:
        """Respond 200 if content can be served, else 503 with the reason; JSON has the status too.

        Concurrent requests share one check, so that they cannot accumulate on a database or a
        network file system that hangs.
        """
        check = self._check
        if check is None or check.done():
            check = self._check = asyncio.create_task(self._problem())
        # Not `self._check`, which the next request may replace.
        done, _ = await asyncio.wait([check], timeout=DEADLINE)
        problem = (
            check.result()
            if done
            else f"The check of database and storage took over {DEADLINE:.0f} s."
        )
        if problem and self.stale is not None and self.stale.allowed:
            # Ready for what is cached: without this process, clients would get nothing.
            problem = None
        if prefers_json(request):
            status = json_probe_response(problem, self.cache.problem if self.cache else TURNED_OFF)
            return compress(request.scope, status)
        return text_probe_response(problem, self._remark())

    def _remark(self) -> str:
        """Return why the response cache is disabled: content is slow, but the process is ready."""
        problem = self.cache.problem if self.cache else None
        if self.stale is not None and self.stale.allowed:
            return "The database does not answer, only content that is cached is sent.\n"
        if problem in (None, STARTING, TURNED_OFF):
            return ""
        return f"Every request is looked up in the database: {problem}.\n"

    async def _problem(self) -> str | None:
        try:
            with self.executor.asynchronous_orm():
                domain = await Domain.objects.aget(name="default")
        except (Error, Domain.DoesNotExist):
            return "The database is not available."
        # Not in one of the few threads of the executor: the storage may hang.
        if not await to_thread.run_sync(_is_storage_available, domain):
            return "The storage is not available."
        if self.runs_tasks:
            return await to_thread.run_sync(working_directory_problem)
        return None


def _is_storage_available(domain: Domain) -> bool:
    """Return whether the root of a domain's storage is a directory; True for an object storage."""
    if domain.storage_class != FILE_SYSTEM:
        return True
    try:
        return Path(domain.get_storage().location).is_dir()
    except OSError:  # the server of a network file system is down or denies access
        return False


def json_probe_response(problem: str | None, cache_problem: str | None) -> Response:
    """Return the status of the content app as JSON."""
    readiness: Readiness = {
        "ready": problem is None,
        "problem": problem,
        "cache": cache_problem or "enabled",
        "plugins": discovery.as_json(),
    }
    return JSONResponse(readiness, 503 if problem else 200, HEADERS)


def text_probe_response(problem: str | None, remark: str = "") -> Response:
    if problem is None:
        return PlainTextResponse(f"ok\n{remark}", headers=HEADERS)
    return PlainTextResponse(f"{problem}\n", 503, HEADERS)
