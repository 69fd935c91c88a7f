"""Small files in memory: to open, read and close one costs more than all else of a warm answer.

An artifact never changes, and its bytes are kept only if they have its sha256: what is sent from
memory is right whatever happens to the file, also where Pulp's repair task has to replace it. That
a file has gone from the disk without Pulp's knowledge is noticed when it is read next: at once for
large ones, and for small ones when memory does not hold them any more.
"""

import hashlib
from collections.abc import Callable, Sequence

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import Closing, InMemory, Readable, Source

# Bytes of the largest files that are kept in memory.
SMALL = 64 * 1024


class Bytes(Closing):
    """A file in memory, or only its size where nobody wants to read."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`."""
        return self.data[offset : offset + length]

    def close(self) -> None:
        """There is nothing to let go of."""


class InMemoryFile(InMemory):
    """An artifact of `size` bytes in `source`, which is a file; opened once, it is remembered."""

    __slots__ = ("hold", "sha256", "size", "source")

    def __init__(
        self, source: Source, size: int, sha256: str, hold: Callable[[bytes], bytes | None]
    ) -> None:
        """`hold` is given the bytes, and returns the copy to hold, or None if it must not be."""
        self.source = source
        self.size = size
        self.sha256 = sha256
        self.hold = hold
        self.data: bytes | None = None
        self.seen = False

    @property
    def name(self) -> str:
        return self.source.name

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """As `Source.open`."""
        if self.data is not None:
            return Bytes(self.data, self.size)
        if self.seen and not parts:
            return Bytes(b"", self.size)
        file = await self.source.open(parts)
        if file.size != self.size:
            return file
        self.seen = True
        if self.size > SMALL or not parts:
            return file
        with file:
            data = await file.read(0, self.size)
        if self.data is None and hashlib.sha256(data).hexdigest() == self.sha256:
            self.data = self.hold(data)
        return Bytes(data, self.size)
