"""Reading a file for many clients at once without making any of them wait for the disk."""

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
from pulpcore.content_star.responses.source import STEP, ArtifactMissing, Closing, OnDisk
from pulpcore.content_star.storage.filesystem import is_local

# How many reads may wait for disks at once. Not anyio's common limit, so that a network file system
# that hangs takes its own threads only.
THREADS = 40

_MAX_DIRECTORIES = 16384

_HAS_NOWAIT = hasattr(os, "RWF_NOWAIT")

# Directories whose files were found on a local disk: the file system is only known once a file is
# open, and opening is what may hang.
_local_directories: set[str] = set()

_scratch = threading.local()

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


class Threads:
    """At most so many threads of an event loop that do one kind of work at once; others queue."""

    def __init__(self, name: str, count: int) -> None:
        """`name` tells the kinds apart: to anyio before 4.10, variables of one name are one."""
        self._count = count
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar(f"content_star_{name}_threads")

    async def run(
        self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Call `function` in one of them."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(self._count)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)


# For what may wait for a disk, or for what stands behind a file.
in_thread = Threads("disk", THREADS).run


class FileTruncated(OSError):
    """A file ended before the size it had when opened: what was promised cannot be sent."""


class LocalFile(Closing):
    """A regular file open for reading at any offset. `size` is in bytes, when it was opened.

    Use it in a `with` block. Being dropped closes it as well, which matters when the request is
    cancelled while a thread still opens the file.
    """

    __slots__ = ("_fd", "_nowait", "path", "size")

    def __init__(self, path: str) -> None:
        """Open `path` here and now; `open` chooses where. Raises OSError as `os.open` does, and
        IsADirectoryError for whatever is not a regular file."""
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
    def sharing(cls, fd: int, path: str) -> Self:
        """Open what `fd` is open on once more, wherever it has been moved to from `path`.

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
        """Open on the event loop where the directory is known to be local, in a thread if not."""
        directory = path.rpartition("/")[0]
        if directory in _local_directories:
            file = cls(path)
        else:
            file = await in_thread(cls, path)
        _remember(directory, file._nowait)
        return file

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`; of more than STEP bytes, as many as memory has.

        Other tasks do not get a turn when memory holds it all: a loop that reads and sends has to
        let them. Raises FileTruncated if the file ends before, OSError as `os.pread` does.
        """
        if length > STEP:
            return self._read_cached(offset, STEP) or await self._wait_for(offset, STEP)
        data = self._read_cached(offset, length)
        if len(data) < length:
            data += await self._wait_for(offset + len(data), length - len(data))
        return data

    async def _wait_for(self, offset: int, length: int) -> bytes:
        """Read in a thread what the disk may have to be asked for."""
        data = b""
        while len(data) < length:
            # Cancelled from outside anyio, this may go on in its thread with a descriptor that was
            # closed and given to another file: harmless, pread moves nothing and nobody gets what
            # it read.
            rest = (length - len(data), offset + len(data))
            more = await in_thread(os.pread, self._fd, *rest)
            if not more:
                raise FileTruncated(f"{self.path} has become shorter than {self.size} bytes")
            data += more
        return data

    def _read_cached(self, offset: int, length: int) -> bytes:
        """What memory holds from `offset` on, or nothing where only a thread can tell."""
        if not self._nowait:
            return b""
        buffer = _scratch_buffer()[:length]
        try:
            count = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return b""
        except OSError:
            # The file system (or a container's system call filter) does not do this. Or the disk
            # is broken, which the thread will find out as well.
            self._nowait = False
            return b""
        # ASGI bodies are bytes, and nothing reads into new bytes without waiting for the disk.
        return bytes(buffer[:count])

    def close(self) -> None:
        """Give the descriptor back; any number of times."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class LocalSource(OnDisk):
    """An artifact in the file at `path`."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        self.name = path

    async def open(self, parts: Sequence[ByteRange]) -> LocalFile:
        """Only what says that this artifact is not here is taken for that: a disk that fails, or
        a file we may not read, is an error of the server's (OSError)."""
        try:
            return await LocalFile.open(self.name)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ArtifactMissing(self.name) from error


def _scratch_buffer() -> memoryview:
    """One STEP of memory a thread reads into: it is never held across an await."""
    try:
        buffer: memoryview = _scratch.buffer
    except AttributeError:
        buffer = _scratch.buffer = memoryview(bytearray(STEP))
    return buffer


def _remember(directory: str, local: bool) -> None:
    if not local:
        _local_directories.discard(directory)
        return
    if len(_local_directories) >= _MAX_DIRECTORIES:
        _local_directories.clear()
    _local_directories.add(directory)
