"""A temporary file that one download writes, off the event loop, while many read it."""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pulpcore.content_star.remote import temporary_file
from pulpcore.content_star.responses.source import StoreUnavailable
from pulpcore.content_star.storage.disk import LocalFile, Threads, in_thread

# How many threads write and hash, for all downloads of a process. Each takes about 300 MB/s, and
# more of them take the cores from the event loop and from requests: while ten files were fetched on
# four cores, a thread for each made the loop answer in 6 ms, two threads in 1 ms.
WRITERS = 2

# What downloads leave free of the file system of `WORKING_DIRECTORY`: one part of RESERVE_PART, at
# most RESERVE bytes. Workers and uploads need room there too, and much else fails on a full disk.
RESERVE_PART = 20
RESERVE = 1024**3

_in_writer_thread = Threads("writer", WRITERS).run

# Whoever closes a file that has no name any more waits until its blocks are free: 230 ms for 1 GB
# on ext4. Its last write may go on, too. A thread of its own for that and for removing names, since
# nobody waits for it.
_close_executor = ThreadPoolExecutor(1, thread_name_prefix="content-close")


class Hasher(Protocol):
    """What is used of `hashlib`'s objects."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class Spool:
    """A temporary file and the digests of what is in it.

    Its descriptor stays open until `close`, whatever becomes of its name: it can be read after it
    has been moved to the storage or unlinked. Raises StoreUnavailable where the disk fails.
    """

    def __init__(self, directory: str, hashers: Mapping[str, Callable[[], Hasher]]) -> None:
        """Blocks. `hashers` make what computes each digest."""
        self._new_hashers = hashers
        self._hashers = {name: new() for name, new in hashers.items()}
        # A write that was cancelled goes on in its thread: it must not meet a descriptor that has
        # been closed and given to another file.
        self._lock = threading.Lock()
        self.size = 0
        try:
            self._fd, self.path = temporary_file.create(directory)
        except OSError as error:
            raise _unavailable(error) from None

    async def write(self, data: bytes) -> None:
        """Append `data`."""
        await _in_writer_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        with self._lock:
            if self._fd < 0:
                return
            self._check_free_space(len(data))
            try:
                remaining = memoryview(data)
                while remaining:
                    remaining = remaining[os.write(self._fd, remaining) :]
            except OSError as error:
                raise _unavailable(error) from None
            for hasher in self._hashers.values():
                hasher.update(data)
            self.size += len(data)

    def _check_free_space(self, size: int) -> None:
        file_system = os.fstatvfs(self._fd)
        reserve = min(RESERVE, file_system.f_blocks * file_system.f_frsize // RESERVE_PART)
        if file_system.f_bavail * file_system.f_frsize - size < reserve:
            raise StoreUnavailable(
                f"WORKING_DIRECTORY has less than {reserve} bytes left, which downloads leave free."
            )

    async def clear(self) -> None:
        """Begin again with nothing."""
        await _in_writer_thread(self._clear)

    def _clear(self) -> None:
        with self._lock:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._hashers = {name: new() for name, new in self._new_hashers.items()}
            self.size = 0

    async def sync(self) -> None:
        """Have the bytes on the disk before a database says that they are there."""
        await in_thread(os.fsync, self._fd)

    def digests(self) -> dict[str, str]:
        """Return the digests of what has been written, by algorithm."""
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def reader(self) -> LocalFile:
        """Open the file once more, for someone who reads it at a speed of their own."""
        return LocalFile.sharing(self._fd, self.path)

    def unlink(self) -> None:
        """Remove the name, soon, so that the file is gone when the last one closes it. It does not
        block, and may be called any number of times."""
        _close_executor.submit(self._unlink)

    def _unlink(self) -> None:
        with suppress(FileNotFoundError):
            Path(self.path).unlink()

    def close(self) -> None:
        """Give the descriptor back, soon; any number of times. It does not block."""
        _close_executor.submit(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)


async def wait_until_closed() -> None:
    """Wait until what is to be removed and closed has been, before the process ends."""
    await asyncio.wrap_future(_close_executor.submit(int))


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"The working directory failed: {os.strerror(error.errno or 0)}")
