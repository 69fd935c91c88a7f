"""aiohttp request for an ASGI scope."""

import asyncio
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.web_urldispatcher import SystemRoute, UrlMappingMatchInfo
from multidict import CIMultiDict, CIMultiDictProxy
from starlette.types import Scope
from yarl import URL

from pulpcore.content_star.aiohttp_bridge.connection import Connection
from pulpcore.content_star.aiohttp_bridge.writer import Writer
from pulpcore.content_star.resolve.paths import raw_path_below

# Maximum bytes of a body for `request.read()`, `json()` and `post()`: aiohttp's default.
MAX_BODY = 1024**2


def make_request(connection: Connection, max_body: int = MAX_BODY) -> web.Request:
    """Return the aiohttp request of `connection`, for the current task.

    Its path is relative to the root path, as in upstream behind a proxy that strips a prefix.
    """
    scope = connection.scope
    headers = _headers(scope)
    url = _url(scope)
    message = RawRequestMessage(
        method=scope["method"],
        path=str(url),
        version=HttpVersion11,  # the server does the framing of any version
        headers=CIMultiDictProxy(headers),
        raw_headers=tuple((bytes(name), bytes(value)) for name, value in scope["headers"]),
        should_close=False,
        compression=None,
        upgrade="upgrade" in headers.get("Connection", "").lower(),
        chunked="Transfer-Encoding" in headers,
        url=url,
    )
    return web.Request(
        message,
        connection.body,
        connection,
        Writer(connection),
        asyncio.current_task(),
        asyncio.get_running_loop(),
        client_max_size=max_body,
        scheme=scope["scheme"],
        remote=scope["client"][0] if scope.get("client") else None,
    )


def match(request: web.Request, **names: str) -> None:
    """Set the `match_info` of a request without a route to `names`."""
    request._match_info = UrlMappingMatchInfo(names, SystemRoute(web.HTTPNotFound()))


def connection_of(request: Any) -> Connection | None:
    """Return the connection of a request of the bridge, None for any other request."""
    protocol = getattr(request, "protocol", None)
    return protocol if isinstance(protocol, Connection) else None


def _headers(scope: Scope) -> "CIMultiDict[str]":
    headers = CIMultiDict(
        (name.decode("latin-1").title(), value.decode("utf-8", "surrogateescape"))
        for name, value in scope["headers"]
    )
    # Handled by the server; aiohttp would send 100 Continue itself.
    headers.popall("Expect", None)
    return headers


def _url(scope: Scope) -> URL:
    """Return path and query as sent, percent-encoded."""
    path = raw_path_below(scope).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return URL.build(path=path or "/", query_string=query, encoded=True)
