"""Read artifacts through the file objects of a Django storage, in threads."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    ArtifactMissing,
    Closing,
    StoreReadError,
    StoreUnavailable,
)
from pulpcore.content_star.storage.disk import in_thread


class FileLike(Protocol):
    """Protocol of the file objects that can be read; Django's `File` follows it."""

    @property
    def size(self) -> int: ...

    def seek(self, offset: int, /) -> object: ...

    def read(self, length: int, /) -> bytes: ...

    def close(self) -> None: ...


class FileSource:
    """Source of an artifact that `opener` opens; `name` is for the log."""

    __slots__ = ("_opener", "name")

    def __init__(self, name: str, opener: Callable[[], FileLike]) -> None:
        self.name = name
        self._opener = opener

    async def open(self, parts: Sequence[ByteRange]) -> "OpenedFile":
        return await in_thread(self._open)

    def _open(self) -> "OpenedFile":
        try:
            file = self._opener()
            return OpenedFile(self.name, file, file.size)
        except FileNotFoundError:
            raise ArtifactMissing(self.name) from None
        except Exception as error:
            # A library may raise anything, and its message may contain secrets.
            kind = type(error).__name__
            raise StoreUnavailable(f"The storage of {self.name} failed: {kind}") from None


class OpenedFile(Closing):
    """An open file object, of which at most CHUNK_SIZE bytes are read at a time."""

    def __init__(self, name: str, file: FileLike, size: int) -> None:
        self.name = name
        self.size = size
        self._file = file
        self._position = 0

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`. Raises StoreReadError if the file ends early or fails."""
        return await in_thread(self._read, offset, min(length, CHUNK_SIZE))

    def _read(self, offset: int, length: int) -> bytes:
        data = b""
        try:
            if offset != self._position:
                self._file.seek(offset)
            while len(data) < length and (more := self._file.read(length - len(data))):
                data += more
        except Exception as error:
            raise StoreReadError(f"Reading {self.name} failed: {type(error).__name__}") from None
        if len(data) < length:
            raise StoreReadError(f"{self.name} ended before {self.size} bytes")
        self._position = offset + length
        return data

    def close(self) -> None:
        """Close the file in a thread, without waiting: the caller may have been cancelled."""
        asyncio.get_running_loop().run_in_executor(None, self._file.close)
