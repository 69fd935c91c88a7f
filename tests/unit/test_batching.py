"""Batches of concurrent calls."""

import asyncio

import pytest

from pulpcore.content_star.database.availability import DatabaseOverloaded
from pulpcore.content_star.database.batching import Batcher

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Work:
    """Divides 100 by each item of a group, when the test releases `may_end`."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[int]]] = []
        self.started = asyncio.Semaphore(0)
        self.may_end = asyncio.Semaphore(0)

    async def __call__(self, key: str, items: list[int]) -> list[int]:
        self.groups.append((key, list(items)))
        self.started.release()
        await self.may_end.acquire()
        if 0 in items:
            raise ZeroDivisionError
        return [100 // item for item in items]


def asking(batcher: Batcher, items: list[int], key: str = "key") -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(key, item)) for item in items]


async def results(tasks: list[asyncio.Task[int]]) -> list[object]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def under_way(work: Work, most: int = 10) -> tuple[Batcher, list[asyncio.Task[int]]]:
    """One that has come first and is not back."""
    batcher = Batcher(work, most)
    first = asking(batcher, [1])
    await work.started.acquire()
    return batcher, first


def release(work: Work, times: int = 10) -> None:
    for _ in range(times):
        work.may_end.release()


async def test_calls_during_a_batch_make_up_the_next_batch():
    work = Work()
    batcher, first = await under_way(work)
    others = asking(batcher, [2, 4, 5])
    await asyncio.sleep(0)
    release(work)
    assert await results(first + others) == [100, 50, 25, 20]
    assert work.groups == [("key", [1]), ("key", [2, 4, 5])]


async def test_batch_has_a_maximum_size():
    work = Work()
    batcher, first = await under_way(work, most=2)
    others = asking(batcher, [2, 4, 5])
    await asyncio.sleep(0)
    release(work)
    assert await results(first + others) == [100, 50, 25, 20]
    assert work.groups == [("key", [1]), ("key", [2, 4]), ("key", [5])]


async def test_batches_of_different_keys_run_concurrently():
    work = Work()
    batcher, first = await under_way(work)
    other = asking(batcher, [2], "other")
    await work.started.acquire()
    assert work.groups == [("key", [1]), ("other", [2])]
    release(work)
    assert await results(first + other) == [100, 50]


async def test_batch_error_is_raised_by_its_calls_only():
    work = Work()
    batcher, first = await under_way(work, most=2)
    others = asking(batcher, [0, 2, 4])
    await asyncio.sleep(0)
    release(work)
    one, *two, three = await results(first + others)
    assert (one, three) == (100, 25)
    assert [type(each) for each in two] == [ZeroDivisionError] * 2


async def test_cancelled_call_does_not_cancel_its_batch():
    work = Work()
    batcher, first = await under_way(work)
    first[0].cancel()
    others = asking(batcher, [2, 4])
    await asyncio.sleep(0)
    others[0].cancel()
    release(work)
    left, one, two = await results(first + others)
    assert isinstance(left, asyncio.CancelledError)
    assert isinstance(one, asyncio.CancelledError)
    assert two == 25


async def test_finished_batches_leave_no_state():
    work = Work()
    batcher, first = await under_way(work)
    release(work)
    await results(first)
    again = asking(batcher, [2])
    assert await results(again) == [50]
    assert not batcher._waiting
    assert not batcher._tasks


async def test_cancelled_calls_are_not_part_of_the_next_batch():
    work = Work()
    batcher, first = await under_way(work)
    others = asking(batcher, [2, 4])
    await asyncio.sleep(0)
    others[0].cancel()
    release(work)
    await results(first + others)
    assert work.groups == [("key", [1]), ("key", [4])]


async def test_calls_are_refused_while_one_has_waited_too_long():
    work = Work()
    batcher = Batcher(work, 10, max_wait=0)
    first = asking(batcher, [1])
    await work.started.acquire()
    second = asking(batcher, [2])
    await asyncio.sleep(0)
    refused = await results(asking(batcher, [4]))
    assert [type(error) for error in refused] == [DatabaseOverloaded]
    release(work)
    assert await results(first + second) == [100, 50]


async def test_cancelled_calls_do_not_refuse_others():
    work = Work()
    batcher = Batcher(work, 10, max_wait=0)
    first = asking(batcher, [1])
    await work.started.acquire()
    left = asking(batcher, [2])
    await asyncio.sleep(0)
    left[0].cancel()
    second = asking(batcher, [4])
    await asyncio.sleep(0)
    release(work)
    assert await results(first + second) == [100, 25]
