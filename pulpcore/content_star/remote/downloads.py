"""The downloads of a process, which those who want the same share."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio.lowlevel import RunVar
from django.conf import settings

from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.errors import reason
from pulpcore.content_star.remote.lock import FetchLock
from pulpcore.content_star.remote.request import FetchRequest
from pulpcore.content_star.remote.spool import wait_until_closed
from pulpcore.content_star.remote.temporary_file import remove_abandoned
from pulpcore.content_star.storage.disk import in_thread

log = logging.getLogger(__name__)

# For work that holds a database connection while a storage takes a whole file: not those of the
# requests, which would have to wait.
SAVE_THREADS = 2

# Seconds that the end of the process waits for what is being saved.
CLOSE_TIMEOUT = 15.0


class Downloads:
    """The downloads of a process, by what is wanted."""

    def __init__(self, executor: DatabaseExecutor) -> None:
        self.executor = executor
        self.save_executor = DatabaseExecutor(SAVE_THREADS, name="content-save")
        self.fetch_lock = FetchLock()
        self._downloads: dict[FetchRequest, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, request: FetchRequest) -> Download:
        """Return the download of `wanted`, and start it if there is none. Enter it at once."""
        download = self._downloads.get(request)
        if download is None:
            download = self._downloads[request] = Download(request, self)
            self._tasks.add(download.task)
            download.task.add_done_callback(self._tasks.discard)
        return download

    def has(self, request: FetchRequest) -> bool:
        """Tell whether there is a download of `wanted` to join."""
        return request in self._downloads

    def run_in_background(self, work: Callable[[], None]) -> asyncio.Task[None]:
        """Do `work` behind the door for saving, in a task that never fails.

        The end of the process waits for it.
        """
        task = asyncio.create_task(self._run_logged(work), name="work for later")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run_logged(self, work: Callable[[], None]) -> None:
        try:
            await self.save_executor.run(work)
        except Exception as error:
            log.error("What was to be done later failed: %s", reason(error), exc_info=error)

    def invalidate(self, download: Download) -> None:
        """Let the next one who asks start anew."""
        if self._downloads.get(download.request) is download:
            del self._downloads[download.request]

    async def close(self) -> None:
        """End all downloads; those that are being saved are waited for, for CLOSE_TIMEOUT."""
        for download in list(self._downloads.values()):
            download.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            for task in late:
                log.error("The %s is given up, since saving takes too long.", task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.fetch_lock.close()
        await self.save_executor.close()
        await wait_until_closed()


_current: RunVar[Downloads] = RunVar("content_star_downloads")


def current_downloads() -> Downloads:
    """Return those of this event loop, within `downloads`."""
    return _current.get()


@asynccontextmanager
async def downloads(executor: DatabaseExecutor) -> AsyncIterator[None]:
    """Have downloads in this event loop until the block ends."""
    await in_thread(remove_abandoned, str(settings.WORKING_DIRECTORY))
    instance = Downloads(executor)
    token = _current.set(instance)
    try:
        yield
    finally:
        await instance.close()
        _current.reset(token)
