"""Temporary file that one download writes, off the event loop, while many clients read it."""

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

# Threads that write and hash, for all downloads of a process. Each takes about 300 MB/s, and more
# of them take cores from the event loop and from requests: with ten fetches on four cores, a thread
# for each raised the latency of the loop to 6 ms, two threads to 1 ms.
WRITERS = 2

# Free space that downloads leave on the file system of `WORKING_DIRECTORY`: one part of
# RESERVE_PART, at most RESERVE bytes. Workers and uploads need it too, and much else fails on a
# full disk.
RESERVE_PART = 20
RESERVE = 1024**3

_in_writer_thread = Threads("writer", WRITERS).run

# Closing an unlinked file waits until its blocks are freed, 230 ms for 1 GB on ext4, and possibly
# for its last write. Unlinking and closing have a thread of their own, since no caller waits for
# them.
_close_executor = ThreadPoolExecutor(1, thread_name_prefix="close-file")


class Hasher(Protocol):
    """The part of the interface of `hashlib`'s objects that is used here."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class Spool:
    """A temporary file and the digests of its content.

    The descriptor stays open until `close`: the file can be read after it has been moved to the
    storage or unlinked. Methods raise StoreUnavailable if the file system fails.
    """

    def __init__(self, directory: str, hashers: Mapping[str, Callable[[], Hasher]]) -> None:
        """Create the file in `directory`; `hashers` has a factory for each digest. Blocks."""
        self._new_hashers = hashers
        self._hashers = {name: new() for name, new in hashers.items()}
        # A cancelled write continues in its thread: it must not use a descriptor that has been
        # closed and reused.
        self._lock = threading.Lock()
        self.size = 0
        try:
            self._fd, self.path = temporary_file.create(directory)
        except OSError as error:
            raise _unavailable(error) from None

    async def write(self, data: bytes) -> None:
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
        """Truncate the file and reset the digests."""
        await _in_writer_thread(self._clear)

    def _clear(self) -> None:
        with self._lock:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._hashers = {name: new() for name, new in self._new_hashers.items()}
            self.size = 0

    async def sync(self) -> None:
        """Flush the file to disk, before the database refers to it."""
        await in_thread(os.fsync, self._fd)

    def digests(self) -> dict[str, str]:
        """Return the hex digests of the content, by algorithm."""
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def reader(self) -> LocalFile:
        """Open the file for an independent reader."""
        return LocalFile.from_descriptor(self._fd, self.path)

    def unlink(self) -> None:
        """Unlink the file in the background. Does not block; idempotent."""
        _in_background(self._unlink)

    def _unlink(self) -> None:
        with suppress(FileNotFoundError):
            Path(self.path).unlink()

    def close(self) -> None:
        """Close the descriptor in the background. Does not block; idempotent."""
        _in_background(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)


def _in_background(work: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # no thread can be started: it is queued, and runs with the next
        _close_executor.submit(work)


async def wait_until_closed() -> None:
    """Wait for all pending unlinks and closes, before the process ends."""
    with suppress(RuntimeError):  # no thread can be started: the next process removes the files
        await asyncio.wrap_future(_close_executor.submit(int))


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"WORKING_DIRECTORY failed: {os.strerror(error.errno or 0)}")
