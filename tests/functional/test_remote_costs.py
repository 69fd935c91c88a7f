"""Costs of downloads from remotes: bounded memory and disk, no blocking of the event loop."""

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.server import Server, serving

BIG = 3_000_000
PIECE = os.urandom(1_000_000)
COUNT = 220
HUGE = COUNT * len(PIECE)

# Bytes by which one more download may grow a process, Python's own included.
MEMORY = 40_000_000


async def huge(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send more bytes than any process may hold in memory, this one included."""
    response = web.StreamResponse(headers={"Content-Length": str(HUGE)})
    await response.prepare(request)
    for _ in range(COUNT):
        await response.write(PIECE)
    return response


def huge_digest() -> str:
    digest = hashlib.sha256()
    for _ in range(COUNT):
        digest.update(PIECE)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def own(instance) -> Iterator[Server]:
    with serving(instance) as running:
        yield running


def memory(server: Server, name: str) -> int:
    """Return bytes of a process's memory from the kernel: `VmRSS` now, `VmHWM` the peak."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def on_disk(server: Server, folder: str) -> dict[int, int]:
    """Return the bytes of the files below `folder` that the process has open, by inode: also of
    unlinked ones."""
    found = {}
    for fd in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            if str(fd.readlink()).startswith(folder):
                status = fd.stat()
                found[status.st_ino] = status.st_size
        except FileNotFoundError:
            continue  # already closed
    return found


@pytest.mark.parametrize("policy", ["on_demand", "streamed"])
def test_slow_client_of_a_huge_file_keeps_memory_and_disk_bounded(
    own, instance, remote_file, policy
):
    file = remote_file(BIG, policy=policy)
    url = own.content_url + file.path
    warm = remote_file(BIG, policy=policy)
    httpx.get(own.content_url + warm.path).raise_for_status()
    digest = huge_digest()
    file.set_behaviour(huge)
    file.set(sha256=digest, size=HUGE)
    home = str(instance.home)

    wait_until(lambda: on_disk(own, home) == {})
    Path(f"/proc/{own.process.pid}/clear_refs").write_text(
        "5"
    )  # resets the peak to the current size
    before = memory(own, "VmRSS")
    most = 0

    def is_on_disk() -> bool:
        nonlocal most
        most = max(most, sum(on_disk(own, home).values()))
        return most >= HUGE

    received = hashlib.sha256()
    with httpx.stream("GET", url) as slow:
        chunks = slow.iter_raw()
        received.update(next(chunks))
        wait_until(is_on_disk)
        wait_until(lambda: file.upstream.open == 0)
        if policy == "on_demand":
            wait_until(lambda: file.artifact)
        is_on_disk()
        assert most == HUGE, "one temporary file, for reading and saving"
        for chunk in chunks:
            received.update(chunk)
    assert received.hexdigest() == digest
    assert memory(own, "VmHWM") < before + MEMORY
    assert file.gets == [1]
    wait_until(lambda: on_disk(own, home) == {})
    if policy == "on_demand":
        saved = file.artifact
        file.content_artifact.artifact = None
        file.content_artifact.save()
        saved.delete()


class BlockingCalls:
    """Counts bytes and calls of blocking functions, on the event loop and off it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_loop: Counter[str] = Counter()
        self.off_loop: Counter[str] = Counter()
        self._patch = monkeypatch

    def count(self, what: str, amount: int = 1) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.off_loop[what] += amount
        else:
            self.on_loop[what] += amount

    def watch(self, target: Any, name: str) -> None:
        """Count the calls of a function."""
        original = getattr(target, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count(name)
            return original(*args, **kwargs)

        self._patch.setattr(target, name, counted)

    def watch_writes(self) -> None:
        write = os.write

        def counted(fd: int, data: Any) -> int:
            written = write(fd, data)
            self.count("written", written)
            return written

        self._patch.setattr(os, "write", counted)

    def watch_hashes(self) -> None:
        """Count the bytes that Pulp's hashers get, also of its downloaders and storage."""
        from pulpcore.app import pulp_hashlib
        from pulpcore.plugin import pulp_hashlib as pulp_hashlib_of_plugins

        make = pulp_hashlib.new
        watch = self

        class Counted:
            def __init__(self, inner: Any) -> None:
                self._inner = inner

            def update(self, data: bytes) -> None:
                watch.count(self._inner.name, len(data))
                self._inner.update(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._inner, name)

        for module in (pulp_hashlib, pulp_hashlib_of_plugins):
            self._patch.setattr(module, "new", lambda *args, **kwargs: Counted(make(*args)))


@pytest.mark.parametrize("policy", ["on_demand", "streamed"])
@pytest.mark.parametrize(
    "behaviour", [remote_server.plain, remote_server.gzip_encoded, remote_server.wrong_bytes]
)
def test_hashing_and_writing_run_off_the_event_loop(
    get_in_process, remote_file, monkeypatch, behaviour, policy
):
    file = remote_file(BIG, policy=policy)
    file.set_behaviour(behaviour)
    watch = BlockingCalls(monkeypatch)
    watch.watch_writes()
    watch.watch_hashes()
    for name in ("fsync", "open", "ftruncate", "link", "rename", "unlink"):
        watch.watch(os, name)
    if behaviour is remote_server.wrong_bytes:
        with pytest.raises(OSError):
            get_in_process(file.path)
    else:
        assert get_in_process(file.path).content == file.data
    assert watch.off_loop["written"] >= BIG
    assert watch.off_loop["sha256"] >= BIG
    # Only a file that is saved needs other digests than the one that verifies it.
    hashed = watch.off_loop.get("sha512", 0)
    assert hashed >= BIG if policy == "on_demand" else hashed == 0
    assert watch.on_loop == {}
