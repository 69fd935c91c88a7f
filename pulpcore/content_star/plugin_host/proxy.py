"""Passes requests on to another HTTP server, as a gateway does (RFC 9110 section 3.7)."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import quote_from_bytes, urlsplit

import aiohttp
from anyio.lowlevel import RunVar
from django_guid import get_guid
from django_guid.config import settings as guid_settings
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send
from yarl import URL

from pulpcore.content_star.resolve.paths import raw_path_below
from pulpcore.content_star.responses.disconnect import DisconnectWatcher

log = logging.getLogger(__name__)

# Seconds for a connection to the server, and for the next bytes from it, which may have to ask a
# slow remote first.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)

# Bytes of an answer that wait for a slow client.
BUFFER = 256 * 1024

# RFC 9110 section 7.6.1: about one connection, not about the message. What `Connection` names too.
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

# What aiohttp would add where the client has said nothing.
_UNSAID = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

# What may stand in a target as it is; what follows a `#` would go nowhere.
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")


# How gateways know each other's requests (RFC 9110 section 7.6.3).
_NAME = "pulp-content-star"


def is_origin(url: object) -> bool:
    """Tell whether `url` is scheme, host and perhaps a port, with or without a slash at the end."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # which raises for what is no port
            return False
    except ValueError:
        return False
    more = ("@" in parts.netloc, parts.path.removesuffix("/"), parts.query, parts.fragment)
    return parts.scheme in ("http", "https") and not any(more)


class Proxy:
    """ASGI application that lets the server at `url` answer, with bodies streamed both ways.

    Method, path below the root path, query, `Host` and all headers but those of the connection go
    along, so that what the server signs or checks of a URL holds. Its redirects and encoded bodies
    are passed back as they are. Calling raises `HTTPException` 502 if it cannot be reached, 508 for
    a request that has been here before; where the server stops in the middle, an error ends the
    connection to the client too. It can be called within `proxy_client`.
    """

    def __init__(self, url: str) -> None:
        """`url` is an origin: the server has the same paths as we."""
        self.url = url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not raw_path_below(scope).startswith(b"/"):
            # `@host` or `%2F.host` would be a part of the server's name.
            raise HTTPException(400, "The path of the URL does not begin with a slash.")
        if _NAME in ", ".join(Headers(scope=scope).getlist("via")):
            raise HTTPException(508, "The server behind this one is this one.")
        # Cancelled, an upload is cut off; it must not end as if it were whole.
        await DisconnectWatcher(self._exchange, immediately=True)(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._ask(scope, receive)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.error("%s could not be asked: %s", self.url, type(error).__name__)
            raise HTTPException(502, "The server behind this one does not answer.") from None
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

    async def _ask(self, scope: Scope, receive: Receive) -> aiohttp.ClientResponse:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = quote_from_bytes(raw_path_below(scope) + query, _PRINTABLE)
        return await _client.get().request(
            scope["method"],
            URL(self.url + target, encoded=True),
            headers=_request_headers(scope),
            data=_chunks(receive) if _has_body(scope) else None,
            allow_redirects=False,
        )


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    # Where HTTP/1.1 says nothing there is none; later versions need not say that there is one.
    unsaid = "0" if scope["http_version"] < "2" else ""
    return "transfer-encoding" in headers or headers.get("content-length", unsaid) != "0"


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message.get("body", b"")
        more = message.get("more_body", False)


_client: RunVar[aiohttp.ClientSession] = RunVar("content_star_proxy_client")


@asynccontextmanager
async def proxy_client() -> AsyncIterator[None]:
    """Have connections to other servers, in this event loop, until the block ends."""
    async with aiohttp.ClientSession(
        # No limit of our own: each exchange is one of the server's connections already.
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=TIMEOUT,
        auto_decompress=False,
        read_bufsize=BUFFER,
        skip_auto_headers=_UNSAID,
    ) as session:
        token = _client.set(session)
        try:
            yield
        finally:
            _client.reset(token)


def _request_headers(scope: Scope) -> list[tuple[str, str]]:
    headers = Headers(scope=scope)
    id_header = guid_settings.guid_header_name
    dropped = _about_the_connection(headers.getlist("connection"))
    added = {name: ", ".join([*headers.getlist(name), value]) for name, value in _our_hop(scope)}
    # `Expect` has been answered: the body is here, or comes.
    dropped |= {"expect", "x-forwarded-proto", id_header.lower(), *map(str.lower, added)}
    if "transfer-encoding" in headers:
        # It wins, and what is framed anew by a length that lies is the start of another request
        # (RFC 9112 section 6.3).
        dropped.add("content-length")
    entry = [(name, value) for name, value in headers.items() if name not in dropped]
    return [
        *entry,
        *added.items(),
        ("X-Forwarded-Proto", scope["scheme"]),
        (id_header, str(get_guid())),
    ]


def _our_hop(scope: Scope) -> Iterator[tuple[str, str]]:
    """Yield the last members of the lists in which each proxy adds itself, or its client.

    The client is the one that our server found: a server behind that believes us takes the last
    address. `Forwarded` (RFC 7239) goes on where a proxy in front has begun it.
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
    dropped = _about_the_connection(response.headers.getall("Connection", []))
    # The server and the correlation id are ours, and so is the clock.
    dropped |= {"server", "date", guid_settings.guid_header_name.lower()}
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if name.decode("latin-1").lower() not in dropped
    ]


def _about_the_connection(connection: list[str]) -> set[str]:
    named = ",".join(connection).split(",")
    return {*_HOP_BY_HOP, *(name.strip().lower() for name in named)}
