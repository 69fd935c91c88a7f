"""Batching of concurrent calls: one query for all items that are waiting.

No call waits for a batch to fill. The first one runs alone; calls that arrive while a batch is
running make up the next one. Batches grow with the load, and without load there is no delay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Key, Item, Result]):
    """Collects items into batches by key. Batches of different keys run concurrently."""

    def __init__(
        self, work: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Result]]], max_size: int
    ) -> None:
        """`work` is called with at most `max_size` items and returns one result for each."""
        self.work = work
        self.max_size = max_size
        self._waiting: dict[Key, list[tuple[Item, asyncio.Future[Result]]]] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    async def submit(self, key: Key, item: Item) -> Result:
        """Add `item` to the next batch and return its result.

        Raises the exception of `work`, as for all items of the batch.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((item, result))
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._run_batches(key))
        return await result

    async def _run_batches(self, key: Key) -> None:
        waiting = self._waiting[key]
        try:
            while waiting:
                batch, waiting[:] = waiting[: self.max_size], waiting[self.max_size :]
                await self._run_batch(key, batch)
        finally:
            del self._waiting[key], self._tasks[key]
            for _, future in waiting:
                future.cancel()

    async def _run_batch(
        self, key: Key, batch: Sequence[tuple[Item, asyncio.Future[Result]]]
    ) -> None:
        try:
            results = await self.work(key, [item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():  # done: its caller was cancelled
                    future.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
