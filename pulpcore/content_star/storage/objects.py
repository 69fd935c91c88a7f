"""Stream artifacts from an object store over HTTP (proxied delivery)."""

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    ArtifactMissing,
    Closing,
    StoreReadError,
    StoreUnavailable,
)

log = logging.getLogger(__name__)

# Timeouts in seconds: of connecting to the store, and of waiting for its next bytes. The latter
# does not run while a slow client pauses reading.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)

# Seconds before each retry of a request that failed or got one of RETRY_STATUSES, which large
# stores occasionally send; their own clients retry too.
RETRY_PAUSES = (0.1, 0.4)
RETRY_STATUSES = frozenset({500, 502, 503, 504})

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<size>\d{1,19})")

# Messages of these may contain the URL with its signature, so that only the class is passed on.
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


@dataclass(frozen=True, slots=True)
class ObjectTarget:
    """URL and connection settings to GET an object."""

    url: str = field(repr=False)
    """Percent-encoded, and signed if needed: a secret, since it grants access to the object."""

    verify: SSLContext | bool = True
    """TLS context, True for default verification, or False for none."""

    proxy: str | None = field(default=None, repr=False)
    """Proxy of the storage's settings; None for that of the environment."""


class ObjectClient:
    """HTTP client of an event loop for all object stores."""

    def __init__(self) -> None:
        # Without a limit, since each download belongs to a connection of a client.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=TIMEOUT,
            auto_decompress=False,
            read_bufsize=CHUNK_SIZE,
        )
        # Not aiohttp's `trust_env`, which also sends credentials from ~/.netrc.
        self.proxies = getproxies()

    def proxy_for(self, url: URL) -> str | None:
        """Return the proxy of the environment for `url`, or None."""
        proxy = self.proxies.get(url.scheme)
        return None if proxy is None or proxy_bypass(url.authority) else proxy

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()


class ObjectSource:
    """Source of an artifact of `size` bytes in an object store; `name` is for the log."""

    __slots__ = ("client", "name", "size", "target")

    def __init__(self, client: ObjectClient, name: str, target: ObjectTarget, size: int) -> None:
        self.client = client
        self.name = name
        self.target = target
        self.size = size

    async def open(self, parts: Sequence[ByteRange]) -> "RemoteObject":
        """Request the first part, or one byte if there is none: a URL that is signed for GET cannot
        be used with HEAD."""
        file = RemoteObject(self, iter(parts[1:]))
        await file.request(parts[0] if parts else ByteRange(0, min(1, self.size)))
        return file


class RemoteObject(Closing):
    """An open object whose parts are read in order, each with one range request.

    About two chunks are buffered at most; then the connection is not read (backpressure).
    """

    def __init__(self, source: ObjectSource, remaining_parts: Iterator[ByteRange]) -> None:
        self.source = source
        self.size = source.size
        self._remaining_parts = remaining_parts
        self._position = 0
        self._stop = 0
        self._response: aiohttp.ClientResponse | None = None

    async def request(self, part: ByteRange) -> None:
        """Send the request for `part`. Raises ArtifactMissing, StoreUnavailable."""
        whole = len(part) == self.source.size
        headers = {"Accept-Encoding": "identity"}
        if not whole:
            headers["Range"] = f"bytes={part.start}-{part.stop - 1}"
        response = self._response = await self._get(headers)
        try:
            self.size = self._size_from(response, part)
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
        client, target = self.source.client, self.source.target
        url = URL(target.url, encoded=True)
        return await client.session.get(
            url,
            headers=headers,
            allow_redirects=False,
            ssl=target.verify,
            proxy=target.proxy or client.proxy_for(url),
        )

    def _size_from(self, response: aiohttp.ClientResponse, part: ByteRange) -> int:
        """Return the size of the whole object, from the response to a request for `part`."""
        match response.status:
            case 200 if part.start == 0:
                if response.content_length is None:
                    raise self._unavailable("a response without Content-Length")
                return response.content_length
            case 206:
                content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if content_range is None or int(content_range["first"]) != part.start:
                    raise self._unavailable("a response with another Content-Range")
                return int(content_range["size"])
            # 416 because the object has fewer bytes than the artifact.
            case 404 | 416:
                raise ArtifactMissing(self.source.name)
        raise self._unavailable(f"status {response.status}")

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(f"Object store of {self.source.name} failed: {reason}")

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`. Raises StoreReadError if the connection fails or ends early."""
        length = min(length, CHUNK_SIZE)
        if not length:
            return b""
        if self._position == self._stop:
            await self._request_next()
        if offset != self._position or self._response is None:
            raise ValueError("Read does not follow the parts given to `open`")
        try:
            data = await self._response.content.readexactly(length)
        except (*_FAILURES, asyncio.IncompleteReadError) as error:
            raise self._read_error(type(error).__name__) from None
        self._position += length
        return data

    async def _request_next(self) -> None:
        try:
            await self.request(next(self._remaining_parts))
        except (ArtifactMissing, StoreUnavailable) as error:
            raise StoreReadError(str(error)) from None
        if self.size != self.source.size:
            raise self._read_error("the object has another size now")

    def _read_error(self, reason: str) -> StoreReadError:
        return StoreReadError(
            f"The store of {self.source.name} stopped at {self._position}: {reason}"
        )

    def close(self) -> None:
        """Release the response: its connection is reused only if the body was read to the end."""
        if self._response is not None:
            self._response.close()
            self._response = None
