"""In-memory files: cache small artifacts, since opening and reading a file dominates a cache hit.

Artifacts are immutable, and bytes are cached only if they match the sha256, so that they remain
valid even if the file is damaged or repaired. A file that was deleted without Pulp is noticed at
the next read: immediately if it is large, after eviction from memory if it is small.
"""

import hashlib
from collections.abc import Callable, Sequence

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import Closing, InMemory, Readable, Source

# Bytes of the largest file that is cached in memory.
MAX_CACHED_SIZE = 64 * 1024


class BytesReader(Closing):
    """Reader of an in-memory file, or of its size alone, with empty `data`."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`."""
        return self.data[offset : offset + length]

    def close(self) -> None:
        """Do nothing: memory needs no release."""


class InMemoryFile(InMemory):
    """Source that caches the file of `source`, an artifact of `size` bytes, when first read."""

    __slots__ = ("sha256", "share", "size", "source")

    def __init__(
        self, source: Source, size: int, sha256: str, share: Callable[[bytes], bytes | None]
    ) -> None:
        """`share` takes the bytes and returns those to cache, or None to cache nothing."""
        self.source = source
        self.size = size
        self.sha256 = sha256
        self.share = share
        self.data: bytes | None = None
        self.seen = False

    @property
    def name(self) -> str:
        return self.source.name

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """As `Source.open`."""
        if self.data is not None:
            return BytesReader(self.data, self.size)
        if self.seen and not parts:
            return BytesReader(b"", self.size)
        file = await self.source.open(parts)
        if file.size != self.size:
            return file
        self.seen = True
        if self.size > MAX_CACHED_SIZE or not parts:
            return file
        with file:
            data = await file.read(0, self.size)
        if self.data is None and hashlib.sha256(data).hexdigest() == self.sha256:
            self.data = self.share(data)
        return BytesReader(data, self.size)
