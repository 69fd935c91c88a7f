"""Batching of concurrent calls: one query for all items that are waiting.

No call waits for a batch to fill. The first one runs alone; calls that arrive while a batch is
running make up the next one. Batches grow with the load, and without load there is no delay.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from pulpcore.content_star.database.availability import DatabaseOverloaded

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Item, Result]):
    """An item that waits for its batch, since a moment on the monotonic clock."""

    item: Item
    future: asyncio.Future[Result]
    since: float


class Batcher(Generic[Key, Item, Result]):
    """Collects items into batches by key. Batches of different keys run concurrently."""

    def __init__(
        self,
        work: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Result]]],
        max_size: int,
        max_wait: float = float("inf"),
    ) -> None:
        """`work` is called with at most `max_size` items and returns one result for each.

        `max_wait` in seconds: no item is added while one has been waiting for longer.
        """
        self.work = work
        self.max_size = max_size
        self.max_wait = max_wait
        self._waiting: dict[Key, list[_Waiting[Item, Result]]] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    async def submit(self, key: Key, item: Item) -> Result:
        """Add `item` to the next batch and return its result.

        Raises the exception of `work`, as for all items of the batch, and `DatabaseOverloaded`.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        now = time.monotonic()
        waiting = self._waiting.setdefault(key, [])
        while waiting and waiting[0].future.done():  # its caller was cancelled
            del waiting[0]
        if waiting and now - waiting[0].since > self.max_wait:
            raise DatabaseOverloaded
        waiting.append(_Waiting(item, result, now))
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._run_batches(key))
        return await result

    async def _run_batches(self, key: Key) -> None:
        waiting = self._waiting[key]
        try:
            while waiting:
                batch, waiting[:] = waiting[: self.max_size], waiting[self.max_size :]
                batch = [each for each in batch if not each.future.done()]  # cancelled callers
                if batch:
                    await self._run_batch(key, batch)
        finally:
            del self._waiting[key], self._tasks[key]
            for each in waiting:
                each.future.cancel()

    async def _run_batch(self, key: Key, batch: "Sequence[_Waiting[Item, Result]]") -> None:
        try:
            results = await self.work(key, [each.item for each in batch])
        except Exception as error:
            for each in batch:
                if not each.future.done():  # done: its caller was cancelled
                    each.future.set_exception(error)
            return
        except asyncio.CancelledError:
            for each in batch:
                each.future.cancel()
            raise
        for each, result in zip(batch, results, strict=True):
            if not each.future.done():
                each.future.set_result(result)
