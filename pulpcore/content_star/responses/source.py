"""Interfaces of artifact sources: open and read the bytes of an artifact, and their errors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from pulpcore.content_star.responses.ranges import ByteRange

# Chunk size: the most bytes that are read and sent at a time. A download holds about twice as many
# in memory. Measured on one uvicorn worker and loopback, a warm 1 GiB file, two clients: 64 KiB
# chunks 2.4 GB/s, 128 KiB 3.1, 256 KiB 4.5, 512 KiB 4.3, 1 MiB 4.6. Beside such downloads a small
# file takes 0.4 ms.
CHUNK_SIZE = 256 * 1024


class ArtifactMissing(Exception):
    """The file of an artifact does not exist, or has another size than the artifact."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Artifact is missing or damaged: {path}")
        self.path = path


class StoreUnavailable(Exception):
    """The storage of an artifact cannot be accessed now.

    The message is for the log and contains neither URLs nor secrets.
    """


class StoreReadError(OSError):
    """Reading an artifact from its storage failed after the response may have started."""


class Closing(ABC):
    """Context manager that calls `close` at its end."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Release all resources without blocking; may be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Readable(Protocol):
    """An artifact that is open for reading. Use it in a `with` block."""

    size: int
    """Bytes of the whole artifact."""

    async def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on.

        Exactly as many if `length` is at most CHUNK_SIZE. Of more, those that are available without
        waiting again: at least one, at most CHUNK_SIZE. Reads have to follow the order of the parts
        that were given to `Source.open`, and stay within them. Raises OSError if reading fails.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class DescriptorReadable(ABC):
    """Base of readables that have a file descriptor, from which a server can send.

    `name` is the path of the file, for the log.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def fileno(self) -> int:
        """Return the file descriptor."""

    @abstractmethod
    async def available(self, offset: int, length: int) -> int:
        """Wait for bytes from `offset` on; return how many of `length` can be sent.

        0 if they have to be read. Raises as `Readable.read`.
        """


class Source(Protocol):
    """The stored bytes of one artifact, which can be opened any number of times concurrently."""

    @property
    def name(self) -> str:
        """Name for the log, without secrets."""

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """Open the artifact to read `parts` of it in this order; with none, only check its size.

        Raises ArtifactMissing if it does not exist, StoreUnavailable if that cannot be determined.
        """


class OnDisk:
    """Base of sources whose `name` is the path of a local file, which a server can send itself."""

    __slots__ = ("name",)

    name: str


class InMemory:
    """Base of sources that cache a small file in memory once it has been read."""

    __slots__ = ("data", "seen")

    data: bytes | None
    """The whole file, if it is cached."""

    seen: bool
    """Whether the file has been opened and had the right size."""
