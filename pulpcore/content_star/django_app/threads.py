"""Thread pools in which Django handles requests."""

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from django.http.response import HttpResponseBase
from starlette.types import Scope

from pulpcore.content_star.django_app.isolation import enter_view_thread
from pulpcore.content_star.django_app.slots import PoolSlots

T = TypeVar("T")

CLOSING_THREADS = 4
"""Threads that close streamed responses, which takes no time unless a view's own code does."""

MAX_NICE = 39
"""Difference of the largest and the smallest nice value."""


class NoThread(RuntimeError):
    """No thread can be started: the process or its container has as many as it may."""


class ViewThreads:
    """Threads in which Django handles requests; further requests wait for a slot.

    Each thread has its own database connection, managed by Django, and an event loop. While a view
    hashes a password, it holds no slot, and waits for one again (see `password_hashing.py`). So
    there are at most `threads + MAX_VIEWS`, which are started when needed.

    Each is an executor of one thread. One of many would queue a call before it starts a thread: if
    that fails, another thread would execute the request later, and count as idle twice.
    """

    def __init__(self, threads: int, name: str, nice: int) -> None:
        """`nice` is added to the nice value of the process: see CONTENT_STAR_API_NICE."""
        self._name = name
        self._options: dict[str, Any] = {"initializer": _lower_priority, "initargs": (nice,)}
        self._numbers = count()
        self._idle: list[ThreadPoolExecutor] = []
        self._closing = ThreadPoolExecutor(CLOSING_THREADS, f"{name}-closing", **self._options)
        self._slots = PoolSlots(threads)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        return self._slots.waiting

    @property
    def is_busy(self) -> bool:
        """Whether the next call has to wait for a slot."""
        return self._slots.all_taken

    async def run(
        self, context: contextvars.Context, work: Callable[..., T], *arguments: object
    ) -> T:
        """Call `work` in one of the threads, with the context variables of the request.

        Raises `NoThread`, after which `work` is not called.
        """
        await self._slots.acquire()
        call: Future[T] = Future()
        call.add_done_callback(lambda _: self._slots.release())
        thread = self._idle.pop() if self._idle else self._new_thread()
        try:
            thread.submit(
                self._run_call, thread, call, context.run, _in_view_thread, work, *arguments
            )
        except RuntimeError as error:
            call.cancel()
            raise NoThread(str(error)) from error
        return await asyncio.wrap_future(call)

    def close(self, context: contextvars.Context, response: HttpResponseBase) -> None:
        """Close a response in a thread, without waiting for it."""
        with suppress(RuntimeError):  # no thread can be started: it is queued, and closed later
            self._closing.submit(context.run, _in_view_thread, response.close)

    def _new_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, f"{self._name}-{next(self._numbers)}", **self._options)

    def _run_call(
        self,
        thread: ThreadPoolExecutor,
        call: Future[T],
        work: Callable[..., T],
        *arguments: object,
    ) -> None:
        """Call `work` in a thread that holds a slot, unless the call was cancelled before.

        The thread is idle before the slot is released, so that the next call finds it.
        """
        if not call.set_running_or_notify_cancel():
            self._idle.append(thread)
            return
        try:
            with self._slots.held_by_thread():
                result = work(*arguments)
        except BaseException as error:
            self._idle.append(thread)
            call.set_exception(error)
            del call  # a cycle: its exception refers to this frame
        else:
            self._idle.append(thread)
            call.set_result(result)


class UploadThreads(ViewThreads):
    """Thread pool for requests whose duration depends on the client.

    Each client address is limited to half of the threads.
    """

    def __init__(self, threads: int, name: str, nice: int) -> None:
        super().__init__(threads, name, nice)
        self._max_per_client = max(threads // 2, 1)
        self._semaphores: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def semaphore_for(self, scope: Scope) -> asyncio.Semaphore:
        """Return the semaphore for the client's address; unused ones are garbage collected."""
        address = scope["client"][0] if scope.get("client") else ""
        semaphore = self._semaphores.get(address)
        if semaphore is None:
            semaphore = self._semaphores[address] = asyncio.Semaphore(self._max_per_client)
        return semaphore


def _lower_priority(nice: int) -> None:
    """Add to the nice value of this thread. Only Linux has one for each thread (setpriority(2)).

    Does nothing where a filter of system calls denies it, as systemd's `SystemCallFilter=` may.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(min(nice, MAX_NICE))


_thread = threading.local()


def _in_view_thread(work: Callable[..., T], *arguments: object) -> T:
    """Call `work` in the working directory, with an event loop for this thread that is not running.

    Pulp's downloaders run it (`fetch()`, called by pulp_python's index): under `pulpcore-api` views
    run in the main thread, for which asyncio creates a loop on demand.
    """
    enter_view_thread()
    loop: asyncio.AbstractEventLoop | None = getattr(_thread, "loop", None)
    if loop is None or loop.is_closed():
        loop = _thread.loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # an earlier view may have called `asyncio.run`, which unsets it
    return work(*arguments)
