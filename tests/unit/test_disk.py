"""Local files: page cache, threads, files that change, and cancellation."""

import asyncio
import ctypes
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from pulpcore.content_star.responses.source import CHUNK_SIZE
from pulpcore.content_star.storage import disk, filesystem
from pulpcore.content_star.storage.disk import FileTruncated, LocalFile
from pulpcore.content_star.storage.filesystem import is_local

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 16
needs_nowait = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="no RWF_NOWAIT here")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Which directories are local is kept for the life of a process; not from test to test."""
    disk._local_directories.clear()
    yield
    disk._local_directories.clear()


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "artifact"
    path.write_bytes(CONTENT)
    return str(path)


class Threads:
    """Which threads opened files and read them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, bool]] = []
        for name in ("open", "pread", "preadv"):
            if hasattr(os, name):
                monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, function: Callable) -> Callable:
        def record(*arguments, **options):
            on_loop = threading.current_thread() is threading.main_thread()
            self.calls.append((name, on_loop))
            return function(*arguments, **options)

        return record


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


def descriptors(path: str) -> int:
    """Return the number of descriptors of this process that are open on `path`."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}") == path
        except OSError:
            continue
    return count


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no /proc here")


async def test_read_returns_the_bytes_at_an_offset(path: str):
    with await LocalFile.open(path) as file:
        assert file.size == len(CONTENT)
        assert await file.read(0, len(CONTENT)) == CONTENT
        assert await file.read(100, 50) == CONTENT[100:150]
        assert await file.read(len(CONTENT) - 1, 1) == CONTENT[-1:]
        assert await file.read(7, 0) == b""


async def test_read_returns_bytes_that_later_reads_do_not_change(path: str):
    with await LocalFile.open(path) as file:
        first = await file.read(0, 10)
        await file.read(10, 10)
        assert type(first) is bytes
        assert first == CONTENT[:10]


@pytest.mark.parametrize("local", [True, False])
async def test_read_returns_a_chunk_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
):
    monkeypatch.setattr(disk, "is_local", lambda fd: local)
    content = os.urandom(2 * CHUNK_SIZE)
    (tmp_path / "big").write_bytes(content)
    with await LocalFile.open(str(tmp_path / "big")) as file:
        some = await file.read(10, CHUNK_SIZE + 1)
        assert 0 < len(some) <= CHUNK_SIZE
        assert some == content[10 : 10 + len(some)]
        assert await file.read(10, CHUNK_SIZE) == content[10 : CHUNK_SIZE + 10]


@needs_nowait
async def test_read_of_more_than_a_chunk_returns_cached_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Threads
):
    monkeypatch.setattr(disk, "is_local", lambda fd: True)
    content = os.urandom(CHUNK_SIZE + 1)
    (tmp_path / "big").write_bytes(content)
    with await LocalFile.open(str(tmp_path / "big")) as file:
        real = os.preadv
        monkeypatch.setattr(
            os, "preadv", lambda fd, bufs, at, flags: real(fd, [bufs[0][:4096]], at)
        )
        assert await file.read(1, CHUNK_SIZE + 1) == content[1:4097]
    assert all(name != "pread" for name, _ in threads.calls)


async def test_empty_file_is_read(tmp_path: Path):
    (tmp_path / "empty").touch()
    with await LocalFile.open(str(tmp_path / "empty")) as file:
        assert file.size == 0
        assert await file.read(0, 0) == b""


async def test_missing_file_raises_file_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        await LocalFile.open(str(tmp_path / "missing"))


@needs_proc
async def test_directory_raises_is_a_directory(tmp_path: Path):
    with pytest.raises(IsADirectoryError):
        await LocalFile.open(str(tmp_path))
    assert descriptors(str(tmp_path)) == 0


@needs_proc
async def test_file_is_closed_after_the_block(path: str):
    with await LocalFile.open(path) as file:
        assert descriptors(path) == 1
        file.close()
        assert descriptors(path) == 0
    with pytest.raises(RuntimeError), await LocalFile.open(path):
        raise RuntimeError
    assert descriptors(path) == 0


async def test_read_after_close_raises(path: str):
    file = await LocalFile.open(path)
    file.close()
    with pytest.raises(OSError) as failure:
        await file.read(0, 1)
    assert failure.value.errno == errno.EBADF


@needs_nowait
async def test_local_files_open_and_read_on_the_event_loop(
    path: str, threads: Threads, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk, "is_local", lambda fd: True)
    for _ in range(2):
        with await LocalFile.open(path) as file:
            assert await file.read(0, 10) == CONTENT[:10]
    # Only of a directory seen for the first time is nothing known.
    assert threads.calls[0] == ("open", False)
    assert ("open", True) in threads.calls
    assert ("preadv", True) in threads.calls


async def test_network_files_open_and_read_in_threads(
    path: str, threads: Threads, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk, "is_local", lambda fd: False)
    for _ in range(2):
        with await LocalFile.open(path) as file:
            assert await file.read(0, 10) == CONTENT[:10]
    assert threads.calls == [("open", False), ("pread", False)] * 2


async def test_directory_that_becomes_a_network_mount_is_noticed(
    path: str, threads: Threads, monkeypatch: pytest.MonkeyPatch
):
    local = True
    monkeypatch.setattr(disk, "is_local", lambda fd: local)
    (await LocalFile.open(path)).close()
    local = False
    (await LocalFile.open(path)).close()
    (await LocalFile.open(path)).close()
    assert threads.calls[-1] == ("open", False)


async def test_number_of_known_directories_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk, "is_local", lambda fd: True)
    monkeypatch.setattr(disk, "_HAS_NOWAIT", True)
    monkeypatch.setattr(disk, "_MAX_DIRECTORIES", 3)
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").touch()
        (await LocalFile.open(str(tmp_path / str(number) / "file"))).close()
        assert len(disk._local_directories) <= 3


async def test_read_without_rwf_nowait_uses_a_thread(
    path: str, threads: Threads, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk, "_HAS_NOWAIT", False)
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    with await LocalFile.open(path) as file:
        assert await file.read(5, 10) == CONTENT[5:15]
    assert ("pread", False) in threads.calls
    assert "preadv" not in [name for name, _ in threads.calls]


class FailingPreadv:
    def __init__(self, code: int) -> None:
        self.code = code
        self.calls = 0

    def __call__(self, fd: int, buffers: list, offset: int, flags: int) -> int:
        self.calls += 1
        raise OSError(self.code, os.strerror(self.code))


@needs_nowait
@pytest.mark.parametrize(
    ("code", "attempts"),
    [
        # Not in memory now, perhaps so the next time.
        (errno.EAGAIN, 3),
        # Will never work for this file.
        (errno.EOPNOTSUPP, 1),
        (errno.ENOSYS, 1),
        (errno.EPERM, 1),
    ],
)
async def test_read_of_uncached_pages_uses_a_thread(
    path: str, monkeypatch: pytest.MonkeyPatch, code: int, attempts: int
):
    monkeypatch.setattr(disk, "is_local", lambda fd: True)
    preadv = FailingPreadv(code)
    monkeypatch.setattr(os, "preadv", preadv)
    with await LocalFile.open(path) as file:
        for start in (0, 10, 20):
            assert await file.read(start, 10) == CONTENT[start : start + 10]
    assert preadv.calls == attempts


@needs_nowait
async def test_read_of_partly_cached_pages_uses_a_thread_for_the_rest(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk, "is_local", lambda fd: True)
    real_preadv, real_pread = os.preadv, os.pread
    monkeypatch.setattr(
        os, "preadv", lambda fd, bufs, at, flags: real_preadv(fd, [bufs[0][:100]], at, flags)
    )
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real_pread(fd, min(length, 7), at))
    with await LocalFile.open(path) as file:
        assert await file.read(3, 500) == CONTENT[3:503]


async def test_error_of_the_disk_is_raised(path: str, monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with await LocalFile.open(path) as file:
        monkeypatch.setattr(os, "preadv", broken)
        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(OSError) as failure:
            await file.read(0, 10)
    assert failure.value.errno == errno.EIO


@pytest.mark.parametrize("local", [True, False])
async def test_truncated_file_raises_file_truncated(
    path: str, monkeypatch: pytest.MonkeyPatch, local: bool
):
    monkeypatch.setattr(disk, "is_local", lambda fd: local)
    with await LocalFile.open(path) as file:
        os.truncate(path, 100)
        assert await file.read(0, 100) == CONTENT[:100]
        with pytest.raises(FileTruncated, match=path):
            await file.read(50, 100)
        with pytest.raises(FileTruncated):
            await file.read(100, 1)


class Gate:
    """Holds a function called in a thread until released."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, *arguments):
        self.entered.set()
        assert self.released.wait(300)
        return self.function(*arguments)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 (it is about what other threads do)
            await anyio.sleep(0.001)


@needs_proc
async def test_cancellation_while_reading_closes_the_file(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk, "is_local", lambda fd: False)
    gate = Gate(os.pread)
    monkeypatch.setattr(os, "pread", gate)

    async def read() -> None:
        with await LocalFile.open(path) as file:
            await file.read(0, 10)

    task = asyncio.ensure_future(read())
    await until(gate.entered.is_set)
    assert descriptors(path) == 1
    task.cancel()
    gate.released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descriptors(path) == 0


@needs_proc
async def test_cancellation_while_opening_closes_the_file(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    """Nobody waits for the thread any more when it comes back with an open file."""
    gate = Gate(os.open)
    monkeypatch.setattr(os, "open", gate)
    task = asyncio.ensure_future(LocalFile.open(path))
    await until(gate.entered.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    opened = threading.Event()
    gate.function = lambda *arguments, real=gate.function: (real(*arguments), opened.set())[0]
    gate.released.set()
    await until(opened.is_set)
    await until(lambda: descriptors(path) == 0)


@needs_proc
async def test_cancelled_anyio_scope_waits_for_the_thread(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    gate = Gate(os.open)
    monkeypatch.setattr(os, "open", gate)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(LocalFile.open, path)
        await until(gate.entered.is_set)
        tasks.cancel_scope.cancel()
        gate.released.set()
    await until(lambda: descriptors(path) == 0)


async def test_concurrent_readers_get_their_own_bytes(path: str):
    with await LocalFile.open(path) as file:

        async def read(start: int) -> None:
            assert await file.read(start, 64) == CONTENT[start : start + 64]

        async with anyio.create_task_group() as tasks:
            for start in range(0, 2048, 16):
                tasks.start_soon(read, start)


NAMES_OF_LOCAL = {
    "ext2/ext3", "xfs", "btrfs", "bcachefs", "zfs", "f2fs", "tmpfs", "ramfs", "overlayfs",
    "squashfs", "erofs",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("place", [".", "/", "/proc", "/sys", "/dev/shm", "/tmp"])
def test_local_file_systems_are_those_of_coreutils(place: str):
    stat = shutil.which("stat")
    if stat is None or not os.path.isdir(place):
        pytest.skip("nothing to compare")
    name = subprocess.run(
        [stat, "--file-system", "--format=%T", place], capture_output=True, text=True, check=True
    ).stdout.strip()
    fd = os.open(place, os.O_RDONLY)
    try:
        assert is_local(fd) is (name in NAMES_OF_LOCAL)
    finally:
        os.close(fd)
    assert not is_local(fd)


@pytest.mark.parametrize(
    ("magic", "local"),
    [
        (0xEF53, True),
        (0x6969, False),  # nfs
        (0xFF534D42, False),  # cifs
        (0xFE534D42, False),  # smb2
        (0x65735546, False),  # fuse: sshfs, glusterfs, s3fs
        (0x00C36400, False),  # ceph
        (0x0BD00BD0, False),  # lustre
        (0x12345678, False),  # to be invented
    ],
)
def test_file_system_is_local_by_its_magic_number(
    monkeypatch: pytest.MonkeyPatch, magic: int, local: bool
):
    class Libc:
        @staticmethod
        def fstatfs(fd: int, buffer: ctypes.Array) -> int:
            ctypes.memmove(buffer, ctypes.c_ulong(magic).value.to_bytes(8, sys.byteorder), 8)
            return 0

    monkeypatch.setattr(filesystem, "_libc", Libc)
    assert is_local(0) is local


def test_no_file_system_is_local_outside_of_linux(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(filesystem, "_libc", None)
    assert not is_local(0)
