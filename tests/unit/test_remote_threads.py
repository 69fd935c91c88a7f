"""Downloads from remotes where no thread can be started for their locks and temporary files."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pulpcore.content_star.remote import spool
from pulpcore.content_star.remote.lock import FetchLocks, LockRequest


@pytest.fixture
def without_threads(monkeypatch):
    """No thread can be started, until `monkeypatch.undo`."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    return monkeypatch


def test_fetch_goes_on_without_a_lock(without_threads, caplog):
    async def never() -> None:
        pytest.fail("no other process held the lock")

    async def fetch() -> None:
        locks = FetchLocks()
        request = LockRequest("a", "file a")
        await locks.acquire(request, never)
        locks.release(request)
        await locks.close()

    asyncio.run(fetch())
    assert "Fetch locks are unavailable (can't start new thread)" in caplog.text


def test_temporary_file_is_removed_by_the_next_thread(without_threads, tmp_path):
    with ThreadPoolExecutor(1) as executor:
        without_threads.setattr(spool, "_close_executor", executor)
        left = spool.Spool(str(tmp_path), {})
        descriptor = left._fd
        left.unlink()
        left.close()
        assert Path(left.path).exists()
        without_threads.undo()
        without_threads.setattr(spool, "_close_executor", executor)
        asyncio.run(spool.wait_until_closed())
    assert not Path(left.path).exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
