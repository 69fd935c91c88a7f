import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection
from django.http import Http404
from pulp_file.app.models import FileDistribution
from rest_framework.exceptions import PermissionDenied
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from pulpcore.app.models import Artifact, Distribution
from pulpcore.app.util import get_current_authenticated_user, get_domain
from pulpcore.content_star.plugin import (
    CheckpointApp,
    Mount,
    PublicationApp,
    Route,
    distribution_app,
    domain_of,
    executor_of,
    mount,
    require_user,
    resolved_path_of,
    serves,
    user_of,
)

ERRORS = {
    "value": ValueError("a secret of the plugin"),
    "gone": ObjectDoesNotExist("no such thing"),
    "http404": Http404("not here"),
    "teapot": HTTPException(418, "short and stout"),
    "denied": PermissionDenied("not you"),
}


ENDED: list[str] = []


async def where(request: Request) -> Response:
    return JSONResponse(
        {
            "rest": request.path_params.get("rest"),
            "root": request.scope["root_path"],
            "url": str(request.url_for("api:where", rest="x/y")),
            "domain": domain_of(request).name,
            "current_domain": (await executor_of(request).run(get_domain)).name,
        }
    )


async def resolved(request: Request) -> Response:
    found = resolved_path_of(request)
    return JSONResponse({"path": found.path, "base": found.distribution.base_path})


async def echo(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        async for chunk in request.stream():
            yield chunk

    return StreamingResponse(body(), media_type="application/octet-stream")


async def endless(request: Request) -> Response:
    """Send a stream that ends only when the client disconnects."""

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ENDED.append(request.method)

    return StreamingResponse(body())


async def ended(request: Request) -> Response:
    return PlainTextResponse(str(len(ENDED)))


def who(request: Request) -> Response:
    user = user_of(request)
    current = get_current_authenticated_user()
    return JSONResponse({"user": user.username, "current": current and current.username})


def known(request: Request) -> Response:
    return PlainTextResponse(require_user(request).username)


def backend(request: Request) -> Response:
    """Return the pid of the database connection of a blocking handler, and its thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    return JSONResponse({"pid": pid, "thread": threading.current_thread().name})


async def count(request: Request) -> Response:
    """Respond with a count of the asynchronous ORM, and the thread of `sync_to_async`."""
    count = await Distribution.objects.filter(name="").acount()
    thread = await sync_to_async(threading.current_thread)()
    return JSONResponse({"count": count, "thread": thread.name.rpartition("_")[0]})


async def boom(request: Request) -> Response:
    raise ERRORS[request.path_params["what"]]


async def headers(request: Request) -> Response:
    own = {"Content-Security-Policy": "default-src 'self'", "Cache-Control": "max-age=5"}
    return PlainTextResponse("own", headers=own)


def artifact(request: Request) -> Any:
    found = Artifact.objects.get(sha256=request.path_params["digest"])
    return distribution_app(request).artifact(found, "blob", found.pulp_created)


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("endpoint")


ROUTES = [
    Route("/where/{rest:path}", where, name="where"),
    Route("/resolved/{rest:path}", resolved),
    Route("/echo", echo, methods=["POST", "PUT"]),
    Route("/endless", endless, methods=["GET", "POST"]),
    Route("/ended", ended),
    Route("/who", who, methods=["GET", "POST", "OPTIONS"]),
    Route("/known", known),
    Route("/backend", backend),
    Route("/count", count),
    Route("/boom/{what}", boom),
    Route("/headers", headers),
    Route("/blobs/{digest}", artifact),
    Route("/endpoint", Endpoint),
]


@serves(FileDistribution)
class ProbeApp(PublicationApp):
    """The publications of pulp_file's distributions, and routes below `api/`."""

    routes = (
        Mount("/api", routes=ROUTES, name="api"),
        Route("/a.txt", echo, methods=["PUT"]),
    )

    def find_content(self, path: str) -> Any:
        if path == "found":
            return PlainTextResponse(f"for {self.request.headers['user-agent']}")
        return None

    def json_for(self, path: str) -> object:
        return {"json": path, "query": self.request.url.query} if path == "a.txt" else None

    def usage(self) -> str:
        return "<b>bold</b>"


@serves(FileDistribution, checkpoint=True)
class ProbeCheckpoints(CheckpointApp, ProbeApp):
    """The same routes for checkpoints."""

    def usage(self) -> str:
        return "one directory for each checkpoint"


mount(
    "/pulp/probe/",
    [Mount("/api", routes=ROUTES, name="api"), Route("/", where)],
)
