"""Downloads of an application, shared by all clients that request the same file."""

import asyncio
import logging
from collections.abc import Callable

from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.errors import reason
from pulpcore.content_star.remote.lock import FetchLocks
from pulpcore.content_star.remote.request import FetchRequest
from pulpcore.content_star.remote.spool import wait_until_closed

log = logging.getLogger(__name__)

# Threads for saving, apart from those of requests: each holds a database connection while the
# storage takes a whole file.
SAVE_THREADS = 2

# Seconds from which on a file's saving is given up if the database does not answer. The storage
# may take longer, and files wait for a thread without a limit.
SAVE_QUERY_TIMEOUT = 60.0

# Seconds that the shutdown waits for files that are being saved.
CLOSE_TIMEOUT = 15.0


class Downloads:
    """Registry of the downloads of an application, by fetch request."""

    def __init__(self, executor: DatabaseExecutor, fetch_locks: FetchLocks | None = None) -> None:
        """`executor` is for queries; saving has an executor of its own."""
        self.executor = executor
        self.save_executor = DatabaseExecutor(
            SAVE_THREADS, "save-db", timeout=SAVE_QUERY_TIMEOUT, max_wait=float("inf")
        )
        self.fetch_locks = fetch_locks or FetchLocks()
        self._downloads: dict[FetchRequest, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, request: FetchRequest) -> Download:
        """Return the download for `request`, starting one if needed.

        Retain it before awaiting anything.
        """
        download = self._downloads.get(request)
        if download is None:
            download = self._downloads[request] = Download(request, self)
            self._tasks.add(download.task)
            download.task.add_done_callback(self._tasks.discard)
        return download

    def has(self, request: FetchRequest) -> bool:
        """Return whether a download for `request` can be joined."""
        return request in self._downloads

    def run_in_background(self, work: Callable[[], None], description: str) -> asyncio.Task[None]:
        """Run `work` in the executor for saving, in a task that logs an exception.

        The shutdown waits for it.
        """
        task = asyncio.create_task(self._run_logged(work, description), name=description)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run_logged(self, work: Callable[[], None], description: str) -> None:
        try:
            await self.save_executor.run(work)
        except Exception as error:
            log.error(
                "%s failed, the next request for it tries again: %s",
                description,
                reason(error),
                exc_info=error,
            )

    def invalidate(self, download: Download) -> None:
        """Remove `download`, so that the next request starts another."""
        if self._downloads.get(download.request) is download:
            del self._downloads[download.request]

    async def close(self) -> None:
        """Cancel all downloads, waiting up to CLOSE_TIMEOUT for files that are being saved."""
        for download in list(self._downloads.values()):
            download.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            for task in late:
                log.error(
                    "Shutdown cancelled the task %r, which did not end within %d s. Check the load"
                    " of the storage and of the database.",
                    task.get_name(),
                    CLOSE_TIMEOUT,
                )
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.fetch_locks.close()
        await self.save_executor.close()
        await wait_until_closed()
