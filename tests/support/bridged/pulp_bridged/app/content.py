"""Routes that the plugin adds to upstream's content app."""

import asyncio
import os
from itertools import count
from pathlib import Path

from aiohttp import web
from asgiref.sync import sync_to_async
from pulp_file.app.models import FileDistribution

from pulpcore.plugin.cache import AsyncContentCache
from pulpcore.plugin.content import Handler, PathNotResolved, app
from pulpcore.plugin.models import ContentArtifact, Domain
from pulpcore.plugin.util import get_domain

# The directory in which handlers record events.
NOTES = Path(os.environ.get("BRIDGED_NOTES", "."))


COUNT = count(1)


async def hello(request):
    cookies = dict(request.cookies)
    response = web.json_response(
        {
            "method": request.method,
            "name": request.match_info["name"],
            "path": request.path,
            "raw_path": request.raw_path,
            "query": list(request.query.items()),
            "cookies": cookies,
            "header": request.headers.get("x-header"),
            "scheme": request.scheme,
            "url": str(request.url),
            "remote": request.remote,
            "user": str(request["user"]),
            "authenticated": request["user"].is_authenticated,
            "drf": request["drf_request"].pulp_domain.name,
            "domain": get_domain().name,
            "app": request.app["word"],
            "body": await request.text(),
        }
    )
    response.set_cookie("seen", "1", httponly=True)
    return response


async def form(request):
    data = await request.post()
    upload = data["file"]
    return web.json_response([data["field"], upload.filename, len(upload.file.read())])


async def echo(request):
    response = web.StreamResponse()
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


async def compressed(request):
    response = web.StreamResponse()
    response.enable_compression()
    response.content_type = "text/plain"
    await response.prepare(request)
    for _ in range(100):
        await response.write(b"again and " * 100)
    return response


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    sent = 0
    try:
        while True:
            await response.write(b"x" * 65536)
            sent += 65536
            (NOTES / "sent").write_text(str(sent))
    except asyncio.CancelledError:
        await asyncio.sleep(0)  # cleanup may await
        (NOTES / "cancelled").write_text(str(sent))
        raise


async def found(request):
    raise web.HTTPFound("/elsewhere", headers={"X-Why": "moved"})


async def broken(request):
    raise LookupError("hunter2")


async def cut(request):
    response = web.StreamResponse(headers={"Content-Length": "10"})
    await response.prepare(request)
    await response.write(b"12345")
    request.transport.close()
    return response


async def nothing(request):
    return None


async def websocket(request):
    response = web.WebSocketResponse()
    await response.prepare(request)
    return response


async def connections(request):
    """Query the database from `count` concurrent tasks; return the pids of the connections."""

    async def query():
        await Domain.objects.aget(name="default")
        return await sync_to_async(_backend_pid)()

    times = int(request.match_info["count"])
    pids = await asyncio.gather(*(query() for _ in range(times)))
    return web.json_response(sorted(set(pids)))


def _backend_pid():
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


async def iterate(request):
    """Read with server-side cursors, whose chunks may be fetched by different threads."""

    async def names():
        distributions = FileDistribution.objects.order_by("pk").aiterator(chunk_size=2)
        return [each.name async for each in distributions]

    found = await asyncio.gather(*(names() for _ in range(10)))
    assert all(each == found[0] for each in found)
    return web.json_response(found[0])


@AsyncContentCache(base_key="bridged")
async def counted(request):
    return web.Response(text=str(next(COUNT)))


async def working_directory(request):
    return web.Response(text=os.getcwd())


class Files(Handler):
    """Files of distributions, served below a prefix of the plugin."""

    distribution_model = FileDistribution

    @AsyncContentCache(
        base_key=lambda req, cac: Files.find_base_path_cached(req, cac),
        auth=lambda req, cac, bk: Files.auth_cached(req, cac, bk),
    )
    async def by_name(self, request):
        """Send a file that the plugin finds itself, as pulp_container's registry sends blobs."""
        path = request.match_info["path"]
        distribution = await sync_to_async(self._match_distribution)(path)
        await sync_to_async(self._permit)(request, distribution)
        version = await sync_to_async(distribution.repository.latest_version)()
        try:
            found = await ContentArtifact.objects.select_related("artifact").aget(
                content__in=version.content, relative_path=request.match_info["name"]
            )
        except ContentArtifact.DoesNotExist:
            raise PathNotResolved(path) from None
        headers = self.response_headers(found.relative_path, distribution)
        headers["X-By"] = "name"
        is_blob = found.relative_path.startswith("sha256:")
        if is_blob:
            headers["Docker-Content-Digest"] = found.relative_path
            headers["Docker-Distribution-API-Version"] = "registry/2.0"
        if found.artifact:
            return await self._serve_content_artifact(found, headers, request)
        response = web.StreamResponse(headers=None if is_blob else headers)
        await self._stream_content_artifact(request, response, found)
        return response


@web.middleware
async def set_middleware_header(request, handler):
    """Add the status that the plugin's middleware saw to every response."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers["X-Middleware"] = str(error.status)
        raise
    if not response.prepared:
        response.headers["X-Middleware"] = str(response.status)
    return response


async def set_signal_header(request, response):
    response.headers["X-Signal"] = "prepared"


async def lifespan(app):
    (NOTES / "started").write_text("once")
    app["word"] = "started"
    yield
    (NOTES / "ended").write_text("once")


files = Files()
PREFIX = "/pulp/bridged/"

app.middlewares.append(set_middleware_header)
app.on_response_prepare.append(set_signal_header)
app.cleanup_ctx.append(lifespan)
app.add_routes(
    [
        web.route("*", PREFIX + "hello/{name}", hello),
        web.post(PREFIX + "form", form),
        web.route("*", PREFIX + "echo", echo),
        web.get(PREFIX + "compressed", compressed),
        web.get(PREFIX + "endless", endless),
        web.get(PREFIX + "found", found),
        web.get(PREFIX + "broken", broken),
        web.get(PREFIX + "cut", cut),
        web.get(PREFIX + "nothing", nothing),
        web.get(PREFIX + "websocket", websocket),
        web.get(PREFIX + r"connections/{count:\d+}", connections),
        web.get(PREFIX + "iterate", iterate),
        web.get(PREFIX + "cwd", working_directory),
        web.get(PREFIX + "counted", counted),
        web.get(PREFIX + "files/{path:.+}", files.stream_content),
        web.get(PREFIX + "by-name/{path:.+}/name/{name:.+}", files.by_name),
        web.get("/pulp/content/bridged-api/{name}", hello),
        web.get("/{anything}/v2/", found),
    ]
)


@web.middleware
async def set_part_header(request, handler):
    response = await handler(request)
    response.headers["X-Part"] = request.app["part"]
    return response


async def part(request):
    return web.Response(text=f"part {request.match_info['rest']}")


sub = web.Application(middlewares=[set_part_header])
sub["part"] = "yes"
sub.add_routes([web.get("/{rest}", part)])
app.add_subapp("/pulp/bridged-part", sub)
