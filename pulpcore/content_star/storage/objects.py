"""Artifacts in an object store, fetched over HTTP while they are sent."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from urllib.request import getproxies, proxy_bypass

import aiohttp
from anyio.lowlevel import RunVar
from yarl import URL

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import (
    STEP,
    ArtifactMissing,
    Closing,
    StoreReadError,
    StoreUnavailable,
)

log = logging.getLogger(__name__)

# Seconds for a connection to the store, and for the next bytes from it. While a slow client makes
# us read nothing, the latter does not run.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)

# Seconds to wait before a store that refused is asked again: large stores do that now and then, and
# their own clients ask again as well.
RETRY_PAUSES = (0.1, 0.4)
RETRY_STATUSES = frozenset({500, 502, 503, 504})

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<size>\d{1,19})")

# Errors of the client say the URL, some of them with its signature: only their kind is passed on.
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


@dataclass(frozen=True, slots=True)
class Target:
    """How an object is fetched with GET."""

    url: str = field(repr=False)
    """Opens the object to whoever has it: percent-encoded, and signed where that is needed."""

    verify: SSLContext | bool = True
    """Which certificates to believe; False for any."""

    proxy: str | None = field(default=None, repr=False)
    """The store's own proxy; the environment's if it has none."""


class _Client:
    """Connections to stores, for all requests of a process."""

    def __init__(self) -> None:
        # No limit of our own: each download is one of the server's connections already.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=TIMEOUT,
            auto_decompress=False,
            read_bufsize=STEP,
        )
        # aiohttp's `trust_env` would also send what a ~/.netrc has, beside the signature.
        self.proxies = getproxies()

    def proxy_for(self, url: URL) -> str | None:
        proxy = self.proxies.get(url.scheme)
        return None if proxy is None or proxy_bypass(url.authority) else proxy


_client: RunVar[_Client] = RunVar("content_star_object_client")


@asynccontextmanager
async def object_client() -> AsyncIterator[None]:
    """Have connections to object stores, in this event loop, until the block ends."""
    client = _Client()
    async with client.session:
        token = _client.set(client)
        try:
            yield
        finally:
            _client.reset(token)


class ObjectSource:
    """An artifact of `size` bytes in an object store, known as `name` in the log.

    It can be opened within `object_client`.
    """

    __slots__ = ("name", "size", "target")

    def __init__(self, name: str, target: Target, size: int) -> None:
        self.name = name
        self.target = target
        self.size = size

    async def open(self, parts: Sequence[ByteRange]) -> "RemoteObject":
        """Ask for the first part, or for one byte if there is none: a URL signed for GET opens
        nothing to HEAD."""
        file = RemoteObject(self, iter(parts[1:]))
        await file.ask(parts[0] if parts else ByteRange(0, min(1, self.size)))
        return file


class RemoteObject(Closing):
    """An object of which parts are read in order, each with a request of its own.

    No more than about two STEPs are in memory: when they are not read, the store has to wait.
    """

    def __init__(self, source: ObjectSource, following: Iterator[ByteRange]) -> None:
        self.source = source
        self.size = source.size
        self._following = following
        self._position = 0
        self._stop = 0
        self._response: aiohttp.ClientResponse | None = None

    async def ask(self, part: ByteRange) -> None:
        """Begin to read `part`. Raises ArtifactMissing, StoreUnavailable."""
        whole = len(part) == self.source.size
        headers = {"Accept-Encoding": "identity"}
        if not whole:
            headers["Range"] = f"bytes={part.start}-{part.stop - 1}"
        response = self._response = await self._get(headers)
        try:
            self.size = self._size_of(response, part)
        except BaseException:
            self.close()
            raise
        self._position, self._stop = part.start, part.stop

    async def _get(self, headers: dict[str, str]) -> aiohttp.ClientResponse:
        for pause in RETRY_PAUSES:
            try:
                response = await self._get_once(headers)
            except aiohttp.ClientConnectionError as error:
                if isinstance(error, TimeoutError):
                    raise self._unavailable(type(error).__name__) from None
            except _FAILURES as error:
                raise self._unavailable(type(error).__name__) from None
            else:
                if response.status not in RETRY_STATUSES:
                    return response
                response.close()
            await asyncio.sleep(pause)
        try:
            return await self._get_once(headers)
        except _FAILURES as error:
            raise self._unavailable(type(error).__name__) from None

    async def _get_once(self, headers: dict[str, str]) -> aiohttp.ClientResponse:
        client = _client.get()
        target = self.source.target
        url = URL(target.url, encoded=True)
        return await client.session.get(
            url,
            headers=headers,
            allow_redirects=False,
            ssl=target.verify,
            proxy=target.proxy or client.proxy_for(url),
        )

    def _size_of(self, response: aiohttp.ClientResponse, part: ByteRange) -> int:
        """The size of the whole object, from the answer to a request for `part`."""
        match response.status:
            case 200 if part.start == 0:
                if response.content_length is None:
                    raise self._unavailable("an answer without Content-Length")
                return response.content_length
            case 206:
                found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if found is None or int(found["first"]) != part.start:
                    raise self._unavailable("an answer with another range")
                return int(found["size"])
            # It has fewer bytes than it should have.
            case 404 | 416:
                raise ArtifactMissing(self.source.name)
        raise self._unavailable(f"status {response.status}")

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(f"The store of {self.source.name} failed: {reason}")

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`. Raises StoreReadError if the store stops early."""
        length = min(length, STEP)
        if not length:
            return b""
        if self._position == self._stop:
            await self._ask_for_next()
        if offset != self._position or self._response is None:
            raise ValueError("Read in another order than announced")
        try:
            data = await self._response.content.readexactly(length)
        except (*_FAILURES, asyncio.IncompleteReadError) as error:
            raise self._broke(type(error).__name__) from None
        self._position += length
        return data

    async def _ask_for_next(self) -> None:
        try:
            await self.ask(next(self._following))
        except (ArtifactMissing, StoreUnavailable) as error:
            raise StoreReadError(str(error)) from None
        if self.size != self.source.size:
            raise self._broke("another size")

    def _broke(self, reason: str) -> StoreReadError:
        return StoreReadError(
            f"The store of {self.source.name} stopped at {self._position}: {reason}"
        )

    def close(self) -> None:
        """End the connection if the answer is not at its end; it is used again if it is."""
        if self._response is not None:
            self._response.close()
            self._response = None
