"""Read local files without blocking the event loop: from the page cache, else in a thread."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Self, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    ArtifactMissing,
    Closing,
    DescriptorReadable,
    OnDisk,
)
from pulpcore.content_star.storage.filesystem import is_local

# Concurrent blocking reads. Not anyio's default limiter, so that a hung network file system
# occupies these threads only.
THREADS = 40

_MAX_DIRECTORIES = 16384

_HAS_NOWAIT = hasattr(os, "RWF_NOWAIT")

# Directories whose files were found on a local file system: that is only known once a file is open,
# and opening may hang.
_local_directories: set[str] = set()

_thread_local = threading.local()

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


class Threads:
    """Thread limiter of an event loop for one kind of work: further calls queue."""

    def __init__(self, name: str, count: int) -> None:
        """`name` has to be unique: anyio before 4.10 identifies `RunVar`s by it."""
        self._count = count
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar(f"content_star_{name}_threads")

    async def run(
        self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Call `function` in a thread."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(self._count)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)


# Runs blocking calls on files, which wait for a disk or a storage.
in_thread = Threads("disk", THREADS).run


class FileTruncated(OSError):
    """A file became shorter while it was sent, so that the response cannot be completed."""


class LocalFile(Closing, DescriptorReadable):
    """A regular file open for reading at any offset. `size` is that at opening, in bytes.

    Use it in a `with` block. Deletion closes it too, for requests that are cancelled while a thread
    opens the file.
    """

    __slots__ = ("_fd", "_nowait", "path", "size")

    def __init__(self, path: str) -> None:
        """Open `path` in the calling thread, unlike `open`. Raises OSError as `os.open` does, and
        IsADirectoryError for anything but a regular file."""
        self._fd = -1
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise IsADirectoryError(errno.EISDIR, "Not a regular file", path)
        self.size = status.st_size
        self._nowait = _HAS_NOWAIT and is_local(self._fd)

    @classmethod
    def from_descriptor(cls, fd: int, path: str) -> Self:
        """Duplicate the descriptor `fd`, whose file may have been moved away from `path`.

        Raises OSError if the process has too many files open.
        """
        file = cls.__new__(cls)
        file._fd = -1
        file.path = path
        file._fd = os.dup(fd)
        file.size = os.fstat(fd).st_size
        file._nowait = _HAS_NOWAIT and is_local(fd)
        return file

    @classmethod
    async def open(cls, path: str) -> Self:
        """Open on the event loop if the directory is known to be local, else in a thread."""
        directory = path.rpartition("/")[0]
        if directory in _local_directories:
            file = cls(path)
        else:
            file = await in_thread(cls, path)
        _record_locality(directory, file._nowait)
        return file

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`; of more than CHUNK_SIZE bytes, those that the page cache has.

        Does not yield to the event loop if the page cache has them all: a loop that reads and sends
        has to. Raises FileTruncated if the file ends earlier, OSError as `os.pread` does.
        """
        if length > CHUNK_SIZE:
            return self._read_cached(offset, CHUNK_SIZE) or await self._read_in_thread(
                offset, CHUNK_SIZE
            )
        data = self._read_cached(offset, length)
        if len(data) < length:
            data += await self._read_in_thread(offset + len(data), length - len(data))
        return data

    @property
    def name(self) -> str:
        return self.path

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._fd

    async def available(self, offset: int, length: int) -> int:
        """Return `length` on a local file system: a network file system may block the sender."""
        return length if self._nowait else 0

    async def _read_in_thread(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes in a thread, which may wait for the disk."""
        data = b""
        while len(data) < length:
            # Cancelled by other means than anyio's, the thread may read from a descriptor that is
            # closed and reused. This is harmless: pread moves no offset, and its result is dropped.
            rest = (length - len(data), offset + len(data))
            more = await in_thread(os.pread, self._fd, *rest)
            if not more:
                raise FileTruncated(f"{self.path} has become shorter than {self.size} bytes")
            data += more
        return data

    def _read_cached(self, offset: int, length: int) -> bytes:
        """Return the bytes from `offset` on that the page cache has; empty if unknown."""
        if not self._nowait:
            return b""
        buffer = _scratch_buffer()[:length]
        try:
            count = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return b""
        except OSError:
            # RWF_NOWAIT is not supported by the file system or by a container's system call filter.
            # Errors of the disk are raised in the thread as well.
            self._nowait = False
            return b""
        # ASGI bodies are bytes, and Python has no non-blocking read that returns bytes.
        return bytes(buffer[:count])

    def close(self) -> None:
        """Close the descriptor, if it is open."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class LocalSource(OnDisk):
    """Source of an artifact in the local file `path`."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        self.name = path

    async def open(self, parts: Sequence[ByteRange]) -> LocalFile:
        """As `Source.open`. Raises ArtifactMissing only if the file does not exist: a failing disk
        or missing permissions are errors of the server (OSError)."""
        try:
            return await LocalFile.open(self.name)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ArtifactMissing(self.name) from error


def _scratch_buffer() -> memoryview:
    """Return the read buffer of this thread, CHUNK_SIZE bytes; not to be used across an await."""
    try:
        buffer: memoryview = _thread_local.buffer
    except AttributeError:
        buffer = _thread_local.buffer = memoryview(bytearray(CHUNK_SIZE))
    return buffer


def _record_locality(directory: str, local: bool) -> None:
    if not local:
        _local_directories.discard(directory)
        return
    if len(_local_directories) >= _MAX_DIRECTORIES:
        _local_directories.clear()
    _local_directories.add(directory)
