"""Memory of the process: garbage collection while it starts, and giving memory back."""

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

# Seconds between two calls.
INTERVAL = 5.0


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect no garbage during the block, as while modules are imported.

    They stay: to look for garbage among them 500 times took an eighth of the CPU time of a start.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@asynccontextmanager
async def return_freed_memory() -> AsyncIterator[None]:
    """Give freed memory back to the system, every `INTERVAL` seconds during the block.

    glibc keeps most of it: 1.5 GB after 1,000 slow clients of TLS had left. A call takes 0.1 ms
    where nothing is free. For each GB it takes 0.3 s, in which other threads may wait for memory;
    glibc's own threshold (`M_MMAP_THRESHOLD`) would cost page faults for each chunk of each body.
    Does nothing with other C libraries.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        yield
        return
    task = asyncio.create_task(_trim_always(trim), name="return freed memory")
    try:
        yield
    finally:
        task.cancel()


async def _trim_always(trim: Callable[[int], int]) -> None:
    while True:
        await asyncio.sleep(INTERVAL)
        await asyncio.to_thread(trim, 0)
