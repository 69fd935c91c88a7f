"""Flow control: when a connection is read, and when its responses wait."""

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Flow control that keeps reading paused while pipelined requests are queued.

    With TLS, it pauses the transport of TCP: if only that of TLS is paused, asyncio reads the end
    of TCP, and drops what is written from then on.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Resume reading, unless requests are queued."""
        if not self._pipeline:
            super().resume_reading()


class EncryptedFlow(Flow):
    """Flow control that reads nothing while TLS has data to send.

    TLS itself responds to what it reads, to an update of keys for example: from a client that does
    not read, that would fill the memory.
    """

    def pause_writing(self) -> None:
        """Pause writing and reading."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume writing, and reading unless it is paused itself."""
        super().resume_writing()
        if not self.read_paused:
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Resume reading, unless requests are queued or writing is paused."""
        super().resume_reading()
        if self.write_paused:
            self._transport.pause_reading()
