"""Reverse proxy to another HTTP server (gateway, RFC 9110 section 3.7)."""

import logging
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, urlsplit

import aiohttp
from django_guid import get_guid
from django_guid.config import settings as guid_settings
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from yarl import URL

from pulpcore.content_star.resolve.paths import raw_path_below
from pulpcore.content_star.resources import resources_of
from pulpcore.content_star.responses.disconnect import DisconnectWatcher

log = logging.getLogger(__name__)

# Seconds to connect to the server, and between bytes of its response: it may wait for a slow
# remote.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)

# Bytes of a response that are buffered for a slow client.
BUFFER = 256 * 1024

# RFC 9110 section 7.6.1; headers that `Connection` names are hop-by-hop too.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# Headers that aiohttp would add if the client sent none.
_SKIPPED_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

# Characters of a request target that are not quoted; a `#` would start a fragment.
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")


# Pseudonym in `Via`, by which loops are detected (RFC 9110 section 7.6.3).
_NAME = "pulp-content-star"


def is_origin(url: object) -> bool:
    """Return whether `url` is a scheme, host and optional port, with an optional last slash."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # an invalid port raises ValueError
            return False
    except ValueError:
        return False
    more = ("@" in parts.netloc, parts.path.removesuffix("/"), parts.query, parts.fragment)
    return parts.scheme in ("http", "https") and not any(more)


class Proxy:
    """ASGI application that forwards requests to the server at `url`, with streamed bodies.

    Method, path below the root path, query, `Host` and all end-to-end headers are forwarded, so
    that signatures of URLs stay valid. Redirects and encoded bodies are returned unchanged. Raises
    `HTTPException` 502 if the server is unreachable, 508 for a loop; if the response ends early,
    the error closes the connection to the client.
    """

    def __init__(self, url: str) -> None:
        """`url` is an origin: the server has the same paths as this one."""
        self.url = url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not raw_path_below(scope).startswith(b"/"):
            # Appended to the origin, `@host` or `.host` would become part of the server's name.
            raise HTTPException(400, "The path of the URL does not begin with a slash.")
        if _NAME in ", ".join(Headers(scope=scope).getlist("via")):
            raise HTTPException(508, "CONTENT_STAR_LEGACY_URL leads back to this server.")
        # Cancellation aborts an upload; a partial one must not look complete to the server.
        await DisconnectWatcher(self._forward, immediately=True)(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._request(scope, receive)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.error(
                "Proxying a request to %s failed: %s. Start pulpcore-content there, or correct"
                " CONTENT_STAR_LEGACY_URL.",
                self.url,
                type(error).__name__,
            )
            raise HTTPException(
                502, "The content server behind this proxy does not respond."
            ) from None
        async with response:
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status,
                    "headers": _response_headers(response),
                }
            )
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _request(self, scope: Scope, receive: Receive) -> aiohttp.ClientResponse:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = quote_from_bytes(raw_path_below(scope) + query, _PRINTABLE)
        return await resources_of(scope).proxy.request(
            scope["method"],
            URL(self.url + target, encoded=True),
            headers=_request_headers(scope),
            data=Request(scope, receive).stream() if _has_body(scope) else None,
            allow_redirects=False,
        )


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    # HTTP/1.1 without either header has no body (RFC 9112 section 6.3); HTTP/2 may have one.
    default = "0" if scope["http_version"] < "2" else ""
    return "transfer-encoding" in headers or headers.get("content-length", default) != "0"


def proxy_client() -> aiohttp.ClientSession:
    """Return a new HTTP client for proxies, for the running event loop."""
    return aiohttp.ClientSession(
        # Unlimited: the server limits the connections of clients already.
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=TIMEOUT,
        auto_decompress=False,
        read_bufsize=BUFFER,
        skip_auto_headers=_SKIPPED_AUTO_HEADERS,
    )


def _request_headers(scope: Scope) -> list[tuple[str, str]]:
    headers = Headers(scope=scope)
    id_header = guid_settings.guid_header_name
    dropped = _hop_by_hop(headers.getlist("connection"))
    added = {
        name: ", ".join([*headers.getlist(name), value])
        for name, value in _forwarding_headers(scope)
    }
    # The server has handled `Expect` already.
    dropped |= {"expect", "x-forwarded-proto", id_header.lower(), *map(str.lower, added)}
    if "transfer-encoding" in headers:
        # Transfer-Encoding overrides Content-Length; forwarding both allows request smuggling
        # (RFC 9112 section 6.3).
        dropped.add("content-length")
    forwarded = [(name, value) for name, value in headers.items() if name not in dropped]
    return [
        *forwarded,
        *added.items(),
        ("X-Forwarded-Proto", scope["scheme"]),
        (id_header, str(get_guid())),
    ]


def _forwarding_headers(scope: Scope) -> Iterator[tuple[str, str]]:
    """Yield the members that this proxy appends to `Via`, `X-Forwarded-For` and `Forwarded`.

    The client is the one that the ASGI server reports: a server that trusts this proxy uses the
    last address. `Forwarded` (RFC 7239) is only extended if the request has it.
    """
    yield "Via", f"{scope['http_version']} {_NAME}"
    if not scope.get("client"):
        return
    client = scope["client"][0]
    yield "X-Forwarded-For", client
    if "forwarded" in Headers(scope=scope):
        node = f'"[{client}]"' if ":" in client else client
        yield "Forwarded", f"for={node};proto={scope['scheme']}"


def _response_headers(response: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    dropped = _hop_by_hop(response.headers.getall("Connection", []))
    # This server sets these itself.
    dropped |= {"server", "date", guid_settings.guid_header_name.lower()}
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if name.decode("latin-1").lower() not in dropped
    ]


def _hop_by_hop(connection: list[str]) -> set[str]:
    named = ",".join(connection).split(",")
    return {*_HOP_BY_HOP, *(name.strip().lower() for name in named)}
