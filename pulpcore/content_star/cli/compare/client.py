"""HTTP client for both servers: rate-limited, streamed, and sending URLs unchanged."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from pulpcore.content_star import __version__
from pulpcore.content_star.cli.compare.errors import CannotCompare
from pulpcore.content_star.cli.compare.exchange import ETAG, Request, Response
from pulpcore.content_star.cli.compare.listing import ListingParser

CHUNK_SIZE = 256 * 1024
CONNECT_SECONDS = 30
RETRY_SECONDS = (1.0, 2.0, 4.0)
"""Pauses before a server that refuses connections is given up."""

MAX_JSON = 32 << 20
"""Bytes of the longest JSON that is read, of the REST API and of listings."""

_KINDS = {"application/json": "JSON", "text/html": "HTML", "text/plain": "text"}


class ServerUnavailable(Exception):
    """A server does not accept connections, or cannot be found."""


class RateLimiter:
    """Delays requests to a server, so that they exceed no rate."""

    def __init__(self, rate: float) -> None:
        """Allow `rate` requests a second, or any number for 0."""
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Wait for the next free moment."""
        if not self._interval:
            return
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._interval
        if start > now:
            await asyncio.sleep(start - now)


@dataclass(frozen=True)
class Access:
    """Credentials sent to both servers: headers, and a user for Basic authentication."""

    headers: Mapping[str, str] = field(default_factory=dict)
    username: str = ""
    password: str = ""

    @property
    def authorization(self) -> str:
        """Value of the Authorization header, empty without a user."""
        if not self.username:
            return ""
        credentials = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(credentials).decode()}"


class Server:
    """One of the two content apps."""

    def __init__(
        self, base_url: str, session: aiohttp.ClientSession, limiter: RateLimiter, access: Access
    ) -> None:
        self.base_url = base_url
        self.access = access
        self.session = session
        self._limiter = limiter

    def url(self, target: str) -> URL:
        """Return the URL of a path below the base, as it stands: nothing is encoded or resolved."""
        return URL(self.base_url + target, encoded=True)

    async def ask(self, request: Request, *, as_user: bool = False, etag: str = "") -> Response:
        """Send a request and read the response to its end.

        A response that breaks off is returned, with the reason. Raises ServerUnavailable.
        """
        headers = {**self.access.headers, **request.headers}
        headers = {name: value.replace(ETAG, etag) for name, value in headers.items()}
        if as_user and self.access.username:
            headers["Authorization"] = self.access.authorization
        for pause in (*RETRY_SECONDS, None):
            await self._limiter.wait()
            try:
                return await self._exchange(request, headers)
            except aiohttp.ClientConnectorError as error:
                if pause is None:
                    raise ServerUnavailable(
                        f"{self.base_url} cannot be reached: {error}"
                    ) from error
                await asyncio.sleep(pause)
        raise AssertionError  # the last pause is None

    async def json(self, request: Request) -> Any:
        """Return a JSON body, None for a response that is none. Raises ServerUnavailable."""
        await self._limiter.wait()
        headers = {**self.access.headers, **request.headers}
        try:
            async with self.session.get(
                self.url(request.target), headers=headers, allow_redirects=False
            ) as response:
                if (
                    response.status in (401, 403)
                    and self.access.username
                    and "Authorization" not in (request.headers)
                ):
                    user = {**request.headers, "Authorization": self.access.authorization}
                    return await self.json(Request(request.target, headers=user))
                return await read_json(response) if response.status == 200 else None
        except aiohttp.ClientConnectorError as error:
            raise self._unavailable(error) from error
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    async def wait_until_reachable(self) -> None:
        """Wait until the server accepts connections. Raises ServerUnavailable if it does not."""
        url = self.url("")
        assert url.host and url.port
        for pause in (*RETRY_SECONDS, None):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, writer = await asyncio.open_connection(url.host, url.port)
            except (OSError, TimeoutError) as error:
                if pause is None:
                    raise ServerUnavailable(
                        f"{self.base_url} cannot be reached: {error}"
                    ) from error
                await asyncio.sleep(pause)
            else:
                writer.close()
                return

    async def _exchange(self, request: Request, headers: Mapping[str, str]) -> Response:
        started = time.perf_counter()
        answer = Response(0, {})
        try:
            async with self.session.request(
                request.method, self.url(request.target), headers=headers, allow_redirects=False
            ) as response:
                answer.status, answer.headers = response.status, response.headers
                await _read(response, answer)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            answer.broken = _reason(error, answer)
        answer.seconds = time.perf_counter() - started
        return answer

    def _unavailable(self, error: Exception) -> ServerUnavailable:
        return ServerUnavailable(f"{self.base_url} cannot be reached: {error}")

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()


async def read_json(response: aiohttp.ClientResponse) -> Any:
    """Return a JSON body.

    Raises ValueError if it is of another type or no JSON, and CannotCompare if it is too long.
    """
    if response.content_type != "application/json":
        raise ValueError(f"a response of type {response.content_type} instead of JSON")
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_SIZE):
        body += chunk
        if len(body) > MAX_JSON:
            url = response.url.with_query(None)
            raise CannotCompare(f"{url} has more than {MAX_JSON >> 20} MiB of JSON.")
    return json.loads(body)


async def _read(response: aiohttp.ClientResponse, answer: Response) -> None:
    """Hash the body as it arrives, and collect the entries of a listing."""
    digest, parser = hashlib.sha256(), ListingParser()
    kind = _KINDS.get(response.content_type, "bytes")
    may_list = kind == "HTML" and response.status == 200
    async for chunk in response.content.iter_chunked(CHUNK_SIZE):
        digest.update(chunk)
        answer.size += len(chunk)
        if may_list:
            parser.feed(chunk)
    answer.sha256 = digest.hexdigest()
    answer.listing = parser.close()
    answer.body_kind = kind if answer.size else "empty"


def _reason(error: Exception, answer: Response) -> str:
    if isinstance(error, TimeoutError):
        return f"no bytes for too long, after {answer.size} bytes of the body"
    if not answer.status:
        # Not the text of these errors, which have the URL, and so a signature.
        has_url = isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL)
        reason = getattr(error, "message", "") if has_url else str(error)
        return f"no response: {' '.join(reason.split()) or type(error).__name__}"
    return f"{answer.status}, cut after {answer.size} bytes of the body"


class Servers:
    """Both content apps, for the duration of a block."""

    def __init__(
        self, old: str, new: str, access: Access, *, rate: float, concurrency: int, timeout: float
    ) -> None:
        self._arguments = (old, new)
        self._access = access
        self._rate = rate
        self._concurrency = concurrency
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        self.old, self.new = (self._server(base_url) for base_url in self._arguments)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.old.close()
        await self.new.close()

    def _server(self, base_url: str) -> Server:
        return Server(
            base_url,
            session(self._concurrency, self._timeout),
            RateLimiter(self._rate),
            self._access,
        )


def session(concurrency: int, timeout: float) -> aiohttp.ClientSession:
    """Return a session that decodes nothing, keeps no cookie and uses no proxy."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        # gunicorn closes idle connections after two seconds, and a request may cross that.
        connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=1),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "User-Agent": f"pulp-star-compare/{__version__}",
            "Accept-Encoding": "identity",
        },
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=timeout),
        max_line_size=128 * 1024,
        max_field_size=128 * 1024,
    )
