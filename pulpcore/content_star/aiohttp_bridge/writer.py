"""What aiohttp's responses write to: messages of ASGI."""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.compression_utils import ZLibCompressor
from multidict import CIMultiDict

from pulpcore.content_star.aiohttp_bridge.connection import Connection
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

# The server's own, which frames the body and signs its answers.
_OF_THE_SERVER = frozenset(
    {"connection", "date", "keep-alive", "server", "transfer-encoding", "upgrade"}
)


class Writer(AbstractStreamWriter):
    """Sends a response of aiohttp's; a slow client makes `write` wait."""

    length: int | None = None
    """Bytes of the body that may still come, where Content-Length has told; aiohttp sets it."""

    def __init__(self, connection: Connection) -> None:
        self.buffer_size = 0
        self.output_size = 0
        self._connection = connection
        self._compressor: ZLibCompressor | None = None
        self._ended = False

    async def write_headers(self, status_line: str, headers: "CIMultiDict[str]") -> None:
        """Begin the response. ASGI has no reason phrase: that of `status_line` is lost.

        Raises `HTTPNotImplemented` for a change of protocol.
        """
        status = int(status_line.split(" ", 2)[1])
        if status == 101:
            raise web.HTTPNotImplemented(text="Pulp speaks no WebSocket.")
        await self._connection.send(
            {"type": "http.response.start", "status": status, "headers": raw_headers(headers)}
        )

    async def write(self, chunk: Any, **options: Any) -> None:
        """Send a part of the body. Raises ConnectionResetError if the client has left."""
        data = bytes(chunk)
        if self._compressor is not None:
            data = await self._compressor.compress(data)
        await self._send(data)

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Send the last part of the body; nothing if it has been sent."""
        if self._ended:
            return
        self._ended = True
        data = bytes(chunk)
        if self._compressor is not None:
            data = await self._compressor.compress(data) + self._compressor.flush()
        data = self._clip(data)
        await self._connection.send({"type": "http.response.body", "body": data})

    async def drain(self) -> None:
        """Nothing to do: what was written has been taken by the server."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Compress what is written from now on."""
        self._compressor = ZLibCompressor(encoding=encoding, strategy=strategy)

    def enable_chunking(self) -> None:
        """Nothing to do: the server sends chunks where it does not know the length."""

    async def _send(self, data: bytes) -> None:
        data = self._clip(data)
        if not data:
            return
        message = {"type": "http.response.body", "body": data, "more_body": True}
        await self._connection.send(message)
        # As in `responses.body`: sending may wait for nothing, and others want their turn.
        await asyncio.sleep(0)

    def _clip(self, data: bytes) -> bytes:
        """Drop what is beyond the announced length, as aiohttp does."""
        if self.length is not None:
            data = data[: self.length]
            self.length -= len(data)
        self.output_size += len(data)
        self.buffer_size = self.output_size
        return data


def raw_headers(headers: "CIMultiDict[str]") -> list[tuple[bytes, bytes]]:
    """Return `headers` as ASGI has them, with what keeps content from acting as the API's pages.

    Whoever sets a policy of his own has thought about it.
    """
    raw = [
        (name.lower().encode("latin-1"), value.encode("utf-8", "surrogateescape"))
        for name, value in headers.items()
        if name.lower() not in _OF_THE_SERVER
    ]
    raw += [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in SECURITY_HEADERS.items()
        if name not in headers
    ]
    return raw
