"""Probes: whether the process is alive, and whether it can serve.

They are `<prefix>livez` and `<prefix>readyz`, without a slash at the end. Where a distribution (or,
with domains, a domain) has that name, everything of it is at and below `<prefix>livez/`; without
the slash there is only a redirect to there, so that no content is hidden by the probes.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from anyio import to_thread
from django.db import Error
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.app.models import Domain
from pulpcore.content_star.cache.store import STARTING, TURNED_OFF, ResponseCache
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.database.working_directory import working_directory_problem
from pulpcore.content_star.listings.negotiation import prefers_json
from pulpcore.content_star.plugin_host import discovery as plugins
from pulpcore.content_star.request_info import request_info

# Seconds for the database and the storage. Orchestrators give up sooner, and the answer is for
# those who look what is wrong.
DEADLINE = 5.0

# Parts of the status of the content app, told to everybody: each is called on the event loop, must
# not block, and returns what JSON can say.
STATUS: dict[str, Callable[[], object]] = {"plugins": plugins.as_json}

FILE_SYSTEM = "pulpcore.app.models.storage.FileSystem"


class Health:
    """ASGI middleware that answers the probes."""

    def __init__(
        self,
        app: ASGIApp,
        executor: DatabaseExecutor,
        prefix: str,
        cache: ResponseCache | None = None,
        runs_tasks: bool = False,
    ) -> None:
        """`prefix` of the content app begins and ends with a slash.

        `runs_tasks`: whether the process is an API, too, which has to be ready for immediate tasks.
        """
        self.app = app
        self.runs_tasks = runs_tasks
        self.executor = executor
        self.cache = cache
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
        """Answer at once: the event loop runs. The database is not asked, since to restart this
        process would not bring it back."""
        return _answer(None)

    async def ready(self, request: Request) -> Response:
        """Answer 200 if content can be served, 503 with the reason if not.

        Those who prefer JSON are told more: `STATUS`.

        All who ask at the same time share one check: probes, and strangers, cannot pile up work
        on a database or a network file system that hangs.
        """
        check = self._check
        if check is None or check.done():
            check = self._check = asyncio.create_task(self._problem())
        # Not `self._check` from here on: the next request may start another one.
        done, _ = await asyncio.wait([check], timeout=DEADLINE)
        problem = check.result() if done else f"No answer within {DEADLINE:.0f} s."
        if prefers_json(request):
            return _status(problem, self.cache.problem if self.cache else TURNED_OFF)
        return _answer(problem, self._remark())

    def _remark(self) -> str:
        """Say what makes content slow, which is no reason to send clients elsewhere."""
        problem = self.cache.problem if self.cache else None
        if problem in (None, STARTING, TURNED_OFF):
            return ""
        return f"Every request is looked up in the database: {problem}.\n"

    async def _problem(self) -> str | None:
        try:
            folder = await self.executor.run(_storage_folder)
        except (Error, Domain.DoesNotExist):
            return "The database is not available."
        # Not in a thread of the door: the storage may hang, and those are few.
        if folder is not None and not await to_thread.run_sync(_is_there, folder):
            return "The storage is not there."
        if self.runs_tasks:
            return await to_thread.run_sync(working_directory_problem)
        return None


def _storage_folder() -> Path | None:
    """The root of the default domain's storage, None if it is on no file system. Blocks."""
    domain = Domain.objects.get(name="default")
    if domain.storage_class != FILE_SYSTEM:
        return None
    return Path(domain.get_storage().location)


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # a network file system that has lost its server, or refuses us
        return False


def _status(problem: str | None, plans_problem: str | None) -> Response:
    """The status of the content app, for operators and their programs."""
    status: dict[str, object] = {"ready": problem is None, "problem": problem}
    status["plans"] = plans_problem or "kept"
    status |= {name: tell() for name, tell in STATUS.items()}
    return JSONResponse(status, 503 if problem else 200, {"Cache-Control": "no-store"})


def _answer(problem: str | None, remark: str = "") -> Response:
    headers = {"Cache-Control": "no-store"}
    if problem is None:
        return PlainTextResponse(f"ok\n{remark}", headers=headers)
    return PlainTextResponse(f"{problem}\n", 503, headers)
