"""Slots of a thread pool: requests wait for one on the event loop, and views in their threads."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from pulpcore.content_star.database.connection import close_connections, is_in_transaction

_thread = threading.local()


class PoolSlots:
    """A number of slots, with a queue of requests and one of views that take theirs again.

    Views come first: their requests have waited already, and there are not many (`MAX_VIEWS`).
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._requests: deque[Future[None]] = deque()
        self._views: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._requests)

    @property
    def all_taken(self) -> bool:
        """Whether no slot is free."""
        return not self._free

    async def acquire(self) -> None:
        """Wait for a slot for a request."""
        turn = self._enqueue(self._requests)
        if turn.done():
            return
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            self._leave_queue(turn)
            raise

    def reacquire(self) -> None:
        """Wait for a slot for the view of this thread, without a database connection."""
        turn = self._enqueue(self._views)
        try:
            if not turn.done():
                close_connections()
        finally:
            turn.result()

    def release(self) -> None:
        """Release a slot to the next in the queues. From any thread."""
        with self._lock:
            queue = self._views or self._requests
            if not queue:
                self._free += 1
                return
            turn = queue.popleft()
        turn.set_result(None)

    @contextmanager
    def held_by_thread(self) -> Iterator[None]:
        """Note that this thread has a slot during the block, for `released_slot`."""
        _thread.slots = self
        try:
            yield
        finally:
            _thread.slots = None

    def _enqueue(self, queue: deque[Future[None]]) -> Future[None]:
        """Return a future that is done when its owner has a slot, perhaps at once."""
        turn: Future[None] = Future()
        turn.set_running_or_notify_cancel()  # `wrap_future` cannot cancel it from now on
        with self._lock:
            if not self._free:
                queue.append(turn)
                return turn
            self._free -= 1
        turn.set_result(None)
        return turn

    def _leave_queue(self, turn: Future[None]) -> None:
        """Give up waiting, and the slot if there is one by now."""
        with self._lock:
            if turn in self._requests:
                self._requests.remove(turn)
                return
        self.release()


@contextmanager
def released_slot() -> Iterator[None]:
    """Release the slot of this thread, if it has one, and wait for one at the end of the block.

    In a transaction it is kept: views that hold all others may be waiting for a lock of this one.
    """
    slots: PoolSlots | None = getattr(_thread, "slots", None)
    if slots is None or is_in_transaction():
        yield
        return
    _thread.slots = None
    slots.release()
    try:
        yield
    finally:
        slots.reacquire()
        _thread.slots = slots
