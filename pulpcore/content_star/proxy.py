"""Passes requests on to another HTTP server, as a gateway does (RFC 9110 section 3.7)."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote_from_bytes

import aiohttp
from anyio import Event
from anyio.lowlevel import RunVar
from django_guid import get_guid
from django_guid.config import settings as guid_settings
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from pulpcore.content_star.responses.body import until_disconnect

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

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


class Proxy:
    """ASGI application that lets the server at `url` answer, with bodies streamed both ways.

    Method, path, query, `Host` and all headers but those of the connection go along, so that what
    the server signs or checks of a URL holds. Its redirects and encoded bodies are passed back as
    they are. Calling raises `HTTPException` 502 if it cannot be reached; where it stops in the
    middle, an error ends the connection to the client too. It can be called within `proxy_client`.
    """

    def __init__(self, url: str) -> None:
        """`url` has no path: the server has the same ones as we."""
        self.url = url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(scope, receive)
        await until_disconnect(body.disconnect, partial(self._exchange, scope, body, send))

    async def _exchange(self, scope: Scope, body: "_Body", send: Send) -> None:
        try:
            response = await self._ask(scope, body)
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

    async def _ask(self, scope: Scope, body: "_Body") -> aiohttp.ClientResponse:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return await _client.get().request(
            scope["method"],
            URL(self.url + quote_from_bytes(raw_path + query, _PRINTABLE), encoded=True),
            headers=_request_headers(scope),
            data=body.chunks() if body.exists else None,
            allow_redirects=False,
        )


class _Body:
    """The body of a request, and behind it the news that the client has left."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self.exists = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._receive = receive
        self._is_read = Event()
        self._has_left = False
        if not self.exists:
            self._is_read.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read the body. It ends early, and the exchange with it, if the client leaves."""
        more = True
        while more:
            message = await self._receive()
            self._has_left = message["type"] == "http.disconnect"
            more = not self._has_left and message.get("more_body", False)
            if not self._has_left:
                yield message.get("body", b"")
        self._is_read.set()

    async def disconnect(self) -> Message:
        """Receive what comes behind the body."""
        await self._is_read.wait()
        return {"type": "http.disconnect"} if self._has_left else await self._receive()


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
    # `Expect` has been answered: the body is here, or comes.
    dropped |= {"expect", "x-forwarded-proto", id_header.lower()}
    kept = [(name, value) for name, value in headers.items() if name not in dropped]
    if scope.get("client"):
        kept.append(("X-Forwarded-For", scope["client"][0]))
    kept.append(("X-Forwarded-Proto", scope["scheme"]))
    kept.append(("Via", f"{scope['http_version']} pulp-content-star"))
    kept.append((id_header, str(get_guid())))
    return kept


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
