"""What many ask for at the same time, done for all of them at once.

Nobody waits for company: who comes first goes alone, and who comes while somebody is under way goes
with all others who do, as soon as that one is back. So the busier a process is, the more share a
trip through the database door and a query, and an idle one loses nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Key, Item, Result]):
    """Groups those who ask with the same key; groups of different keys do not wait for another."""

    def __init__(
        self, work: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Result]]], most: int
    ) -> None:
        """`work` is given `most` items at a time or fewer, and returns a result for each."""
        self.work = work
        self.most = most
        self._waiting: dict[Key, list[tuple[Item, asyncio.Future[Result]]]] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    async def ask(self, key: Key, item: Item) -> Result:
        """Return the result for `item`; raises what `work` raised, as for all of the group."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((item, result))
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._work_off(key))
        return await result

    async def _work_off(self, key: Key) -> None:
        waiting = self._waiting[key]
        try:
            while waiting:
                group, waiting[:] = waiting[: self.most], waiting[self.most :]
                await self._work_for(key, group)
        finally:
            del self._waiting[key], self._tasks[key]
            for _, result in waiting:
                result.cancel()

    async def _work_for(
        self, key: Key, group: Sequence[tuple[Item, asyncio.Future[Result]]]
    ) -> None:
        try:
            results = await self.work(key, [item for item, _ in group])
        except Exception as error:
            for _, result in group:
                if not result.done():  # cancelled: nobody waits for it any more
                    result.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, result in group:
                result.cancel()
            raise
        for (_, result), each in zip(group, results, strict=True):
            if not result.done():
                result.set_result(each)
