"""aiohttp stream writer that sends ASGI messages."""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.compression_utils import ZLibCompressor
from multidict import CIMultiDict

from pulpcore.content_star.aiohttp_bridge.connection import Connection
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

# Headers that the ASGI server sets.
_SERVER_HEADERS = frozenset(
    {"connection", "date", "keep-alive", "server", "transfer-encoding", "upgrade"}
)


class Writer(AbstractStreamWriter):
    """Sends an aiohttp response; `write` waits for a slow client."""

    length: int | None = None
    """Remaining bytes of the body, with a Content-Length; aiohttp sets it."""

    def __init__(self, connection: Connection) -> None:
        self.buffer_size = 0
        self.output_size = 0
        self._connection = connection
        self._compressor: ZLibCompressor | None = None
        self._ended = False

    async def write_headers(self, status_line: str, headers: "CIMultiDict[str]") -> None:
        """Start the response. ASGI has no reason phrase: that of `status_line` is dropped.

        Raises `HTTPNotImplemented` for a change of protocol.
        """
        status = int(status_line.split(" ", 2)[1])
        if status == 101:
            raise web.HTTPNotImplemented(text="WebSocket is not supported.")
        await self._connection.send(
            {"type": "http.response.start", "status": status, "headers": raw_headers(headers)}
        )

    async def write(self, chunk: Any, **options: Any) -> None:
        """Send a chunk of the body. Raises ConnectionResetError after a client disconnect."""
        data = bytes(chunk)
        if self._compressor is not None:
            data = await self._compressor.compress(data)
        await self._send(data)

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Send the last chunk of the body, once."""
        if self._ended:
            return
        self._ended = True
        data = bytes(chunk)
        if self._compressor is not None:
            data = await self._compressor.compress(data) + self._compressor.flush()
        data = self._clip(data)
        await self._connection.send({"type": "http.response.body", "body": data})

    async def drain(self) -> None:
        """Do nothing: `write` has waited for the server."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Compress the following chunks."""
        self._compressor = ZLibCompressor(encoding=encoding, strategy=strategy)

    def enable_chunking(self) -> None:
        """Do nothing: the server chunks a response without a length."""

    async def _send(self, data: bytes) -> None:
        data = self._clip(data)
        if not data:
            return
        message = {"type": "http.response.body", "body": data, "more_body": True}
        await self._connection.send(message)
        # As in `responses.body`: sending may not suspend, so yield to other tasks.
        await asyncio.sleep(0)

    def _clip(self, data: bytes) -> bytes:
        """Truncate the body to Content-Length, as aiohttp does."""
        if self.length is not None:
            data = data[: self.length]
            self.length -= len(data)
        self.output_size += len(data)
        self.buffer_size = self.output_size
        return data


def raw_headers(headers: "CIMultiDict[str]") -> list[tuple[bytes, bytes]]:
    """Return `headers` for ASGI, with the security headers that the plugin has not set itself."""
    raw = [
        (name.lower().encode("latin-1"), value.encode("utf-8", "surrogateescape"))
        for name, value in headers.items()
        if name.lower() not in _SERVER_HEADERS
    ]
    raw += [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in SECURITY_HEADERS.items()
        if name not in headers
    ]
    return raw
