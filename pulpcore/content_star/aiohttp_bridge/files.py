"""aiohttp's `FileResponse` and pulpcore's `ArtifactResponse`, sent by this content app.

Both send in `prepare`, and plugins derive classes from them whose `prepare` calls
`super().prepare`. So that method is replaced, and takes effect for requests of the bridge only.
"""

import re
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from asgiref.sync import sync_to_async
from starlette.types import ASGIApp, Message, Scope

from pulpcore.content_star.aiohttp_bridge.request import connection_of
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.artifact import ArtifactResponse
from pulpcore.content_star.responses.body import receive_never
from pulpcore.content_star.responses.headers import Disposition, parse_http_date
from pulpcore.content_star.responses.source import ArtifactMissing
from pulpcore.content_star.storage.delivery import deliver
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.upstream import mime_types
from pulpcore.plugin.models import Artifact, Domain
from pulpcore.plugin.responses import ArtifactResponse as PulpArtifactResponse

# Path of an artifact in the storage: its sha256, with domains below the domain's id.
_ARTIFACT = re.compile(r"/artifact/(?:[0-9a-f-]{36}/)?([0-9a-f]{2})/([0-9a-f]{62})$")

_CONDITIONS = (b"if-", b"range")

_file_prepare = web.FileResponse.prepare
_artifact_prepare = PulpArtifactResponse.prepare


def replace_prepare_methods() -> None:
    """Replace `prepare` of both classes in this process."""
    web.FileResponse.prepare = _prepare_file
    PulpArtifactResponse.prepare = _prepare_artifact


def is_file(response: web.StreamResponse) -> bool:
    """Return whether `response` is an instance of one of these classes, not of a subclass."""
    return type(response) in (web.FileResponse, PulpArtifactResponse)


def file_app(response: web.StreamResponse, scope: Scope) -> ASGIApp:
    """Return an ASGI application that sends the file of `response`. Blocks.

    Raises ArtifactMissing, StoreUnavailable.
    """
    name = decoded_path(scope).rpartition("/")[2]
    if isinstance(response, web.FileResponse):
        app = _local_file(response._path, response.headers, name, scope)
    else:
        artifact = response._artifact or _artifact(response._artifact_pk)
        app = artifact_app(artifact.pulp_domain, artifact, name, response.headers, scope)
    return app if response.status == 200 else _without_conditions(app)


def artifact_app(
    domain: Domain,
    artifact: Artifact,
    filename: str,
    headers: Mapping[str, str],
    scope: Scope,
    disposition: Disposition = "inline",
    offload: bool = False,
) -> ASGIApp:
    """Return an ASGI application that sends `artifact`. Blocks; raises StoreUnavailable.

    `headers` of the aiohttp response are added, and override Content-Type, Cache-Control and
    Last-Modified.
    """
    return deliver(
        domain,
        artifact,
        scope,
        offload=offload,
        size=artifact.size,
        sha256=artifact.sha256,
        last_modified=last_modified_of(headers) or artifact.pulp_created,
        filename=filename,
        headers=plain(headers),
        disposition=disposition,
    )


async def send_app(app: ASGIApp, response: web.StreamResponse, request: web.Request) -> None:
    """Send the response of `app` instead of `response`, with the cookies and status of the latter.

    Its headers are sent by `app`. Handlers and middlewares see `response` as sent, with the final
    status.
    """
    connection = connection_of(request)
    assert connection is not None
    cookies = [
        (b"set-cookie", cookie.OutputString().encode()) for cookie in response.cookies.values()
    ]

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            if response.status != 200:
                message = {**message, "status": response.status}
            response._set_status(message["status"], None)
            message = {**message, "headers": [*message["headers"], *cookies]}
        await connection.send(message)

    await app(connection.scope, receive_never, send)
    response._eof_sent = True


class AppResponse(web.StreamResponse):
    """aiohttp response that an ASGI application sends, which is created in `prepare`."""

    def __init__(
        self, make: Callable[[Mapping[str, str], Scope], ASGIApp], headers: Mapping[str, str]
    ) -> None:
        """`make` gets the headers, which middlewares may have changed, and the scope. It blocks."""
        super().__init__(headers=headers)
        self._make = make

    async def prepare(self, request: web.Request) -> Any:
        if not self.prepared:
            await send_made(self._make, self, request)


async def send_made(
    make: Callable[[Mapping[str, str], Scope], ASGIApp],
    response: web.StreamResponse,
    request: web.Request,
) -> None:
    """Run the `on_response_prepare` signals, then `send_app` with the result of `make`."""
    connection = connection_of(request)
    assert connection is not None
    await request._prepare_hook(response)
    app = await sync_to_async(make)(response.headers, connection.scope)
    await send_app(app, response, request)


async def _prepare_file(response: web.FileResponse, request: Any) -> Any:
    compresses = response.compression and not response.prepared  # not supported by `file_app`
    if connection_of(request) is None or compresses:
        return await _file_prepare(response, request)
    return await _send(response, request)


async def _prepare_artifact(response: Any, request: Any) -> Any:
    if connection_of(request) is None:
        return await _artifact_prepare(response, request)
    return await _send(response, request)


async def _send(response: Any, request: Any) -> None:
    if response.prepared:
        return
    await send_made(lambda headers, scope: file_app(response, scope), response, request)


def _local_file(path: Path, headers: Mapping[str, str], name: str, scope: Scope) -> ASGIApp:
    try:
        status = path.stat()
    except OSError as error:
        raise ArtifactMissing(str(path)) from error
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactMissing(str(path))
    digest = _ARTIFACT.search(str(path))
    changed = datetime.fromtimestamp(status.st_mtime, UTC)
    content_type = mime_types.get_type(str(path))
    request_info(scope).source = "local"
    return ArtifactResponse(
        LocalSource(str(path)),
        size=status.st_size,
        sha256="".join(digest.groups()) if digest else None,
        etag=f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
        last_modified=last_modified_of(headers) or changed,
        filename=name,
        headers=({"content-type": content_type} if content_type else {}) | plain(headers),
        disposition="inline",
    )


def _artifact(pk: Any) -> Artifact:
    return Artifact.objects.select_related("pulp_domain").get(pk=pk)


def last_modified_of(headers: Mapping[str, str]) -> datetime | None:
    """Return the time of `Last-Modified`, None if it is missing or invalid."""
    value = headers.get("Last-Modified")
    return parse_http_date(value) if value else None


def plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` with one value for each name (RFC 9110 section 5.3)."""
    plain: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        plain[name] = f"{plain[name]}, {value}" if name in plain else value
    return plain


def _without_conditions(app: ASGIApp) -> ASGIApp:
    """Send the whole file, without evaluating ranges and preconditions.

    They apply only to a response with status 200 (RFC 9110 sections 13.2.1 and 14.2).
    """

    async def send_whole(scope: Scope, receive: Any, send: Any) -> None:
        headers = [pair for pair in scope["headers"] if not pair[0].startswith(_CONDITIONS)]
        await app({**scope, "headers": headers}, receive, send)

    return send_whole
