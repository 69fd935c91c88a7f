"""A download: one fetch shared by any number of clients, each reading at its own speed."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from pulpcore.content_star.remote.downloader import fetch
from pulpcore.content_star.remote.errors import (
    CannotResume,
    Mismatch,
    RemoteBroke,
    RemoteUnavailable,
    failure_of,
    reason,
)
from pulpcore.content_star.remote.lock import LockRequest
from pulpcore.content_star.remote.request import (
    FetchRequest,
    NotModified,
    RemoteSource,
    mark_failed,
)
from pulpcore.content_star.remote.sink import VerifyingSink, algorithms_for
from pulpcore.content_star.responses.source import StoreUnavailable
from pulpcore.content_star.storage.disk import LocalFile
from pulpcore.content_star.upstream import with_domain

if TYPE_CHECKING:
    from pulpcore.content_star.remote.downloads import Downloads

log = logging.getLogger(__name__)

# Seconds after which no further remote is tried while clients have received no byte.
FAILOVER_TIMEOUT = 60.0

# Seconds to wait for a whole chunk: clients of a slow remote get the bytes that have arrived before
# they, or a proxy, take the response for stalled.
CHUNK_TIMEOUT = 1.0

# Seconds for which clients wait for the last byte while the file is saved, so that a client that
# has all of it finds it saved. Longer than a busy storage takes, shorter than common client
# timeouts.
LAST_BYTE_TIMEOUT = 5.0


class Download:
    """Fetch a file in a task of its own, for the clients that retain it and to save it.

    No single client is essential. When the last one releases the download, the task is cancelled if
    the file is not to be saved or another process fetches it, and continues otherwise.
    """

    def __init__(self, request: FetchRequest, downloads: "Downloads") -> None:
        self.request = request
        self.failure: Exception | None = None
        self.on_complete: Callable[[Download], None] | None = None
        """Called once on completion, before clients are notified."""
        self._sink = VerifyingSink(request, self._on_progress)
        self._downloads = downloads
        self._clients = 0
        self._source: RemoteSource | None = None
        self._lock_request: LockRequest | None = None
        self._is_waiting_for_lock = False  # for the fetch lock of another process
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"fetch {request.name}")

    # For clients

    @property
    def size(self) -> int | None:
        """In bytes; None while unknown. Final once bytes are available."""
        return self._sink.size

    @property
    def sha256(self) -> str | None:
        """Hex digest; None while unknown."""
        return self._sink.sha256

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response that the first bytes came with, or as updated by a later 304.

        Empty if the downloader reports none.
        """
        return self._sink.response_headers

    @headers.setter
    def headers(self, headers: Mapping[str, str]) -> None:
        self._sink.response_headers = headers

    @property
    def available(self) -> int:
        """Number of bytes that clients may have: the last is withheld until it is verified."""
        return self._sink.available

    @property
    def complete(self) -> bool:
        """Whether the whole file has arrived and is verified."""
        return self._sink.complete

    def retain(self) -> None:
        """Add a client, until `release`."""
        self._clients += 1

    def release(self) -> None:
        """Remove a client; after the last, cancel unless the file is to be saved here."""
        self._clients -= 1
        if self._clients:
            return
        if self.task.done():
            self._dispose()
        elif self._is_waiting_for_lock or (self._is_for_clients_only() and not self._sink.complete):
            self._cancel()

    def _is_for_clients_only(self) -> bool:
        """Return whether the file of the current source is for clients only, and not saved."""
        return self._source is not None and not self._source.saves

    async def wait_for_start(self) -> None:
        """Wait for the first bytes, or for completion.

        Raises RemoteUnavailable, StoreUnavailable, AlreadySaved, or whatever ended the task.
        """
        while not (self._sink.available or self._sink.complete):
            await self._next_change()

    async def wait_for_size(self) -> int:
        """Wait for the first bytes and for the size, which is returned.

        The size may be known only at the end. Raises as `wait_for_start`, and RemoteBroke.
        """
        await self.wait_for_start()
        while self._sink.size is None:
            await self._next_change()
        return self._sink.size

    async def wait_for_bytes(self, offset: int, stop: int) -> int:
        """Wait for the bytes from `offset` up to `stop`; return the offset up to which they are.

        It is `stop`, or lower if these bytes take longer than `CHUNK_TIMEOUT`; at least one is
        available. The last byte is once it is released. Raises RemoteBroke, also if available bytes
        turned out to be wrong.
        """
        if self._is_available(stop):
            return stop
        try:
            async with asyncio.timeout(CHUNK_TIMEOUT):
                while not self._is_available(stop):
                    await self._next_change()
                return stop
        except TimeoutError:
            return min(stop, await self.wait_for_more(offset))

    def _is_available(self, stop: int) -> bool:
        sink = self._sink
        is_end_withheld = stop == sink.size and not sink.released
        return sink.available >= stop and not sink.is_wrong and not is_end_withheld

    async def wait_for_more(self, offset: int) -> int:
        """Wait for bytes after `offset`; return the number available, which is `offset` at the end.

        Raises RemoteBroke.
        """
        sink = self._sink
        while sink.is_wrong or (sink.available <= offset and not sink.released):
            await self._next_change()
        return self._sink.available

    async def _next_change(self) -> None:
        if self.failure is not None:
            error_type = RemoteBroke if self._sink.available else type(self.failure)
            raise error_type(*self.failure.args)
        await self._changed.wait()

    def open(self) -> LocalFile:
        """Open the temporary file for reading. Requires `wait_for_start`."""
        assert self._sink.spool is not None
        return self._sink.spool.reader()

    def stop(self) -> None:
        """Cancel the task, unless the file is complete and being saved."""
        if not self._sink.complete or self._is_for_clients_only():
            self._cancel()

    def _cancel(self) -> None:
        self._downloads.invalidate(self)  # at once: no client may join a download that ends
        self.task.cancel()

    # The task

    async def _run(self) -> None:
        try:
            with with_domain(self.request.domain):
                if self.request.saves:
                    await self._acquire_lock()
                await self._fetch()
                await self._save()
        except asyncio.CancelledError:
            self._fail(RemoteUnavailable("The download was cancelled."))
            raise
        except Exception as error:
            self._fail(error)
        finally:
            self._release_lock()
            self._sink.unlink()
            if not self._clients:
                self._dispose()

    async def _acquire_lock(self) -> None:
        """Wait for the fetch lock. Raises AlreadySaved if another process has saved the file."""
        self._lock_request = LockRequest(self.request.identity, self.request.name)
        self._is_waiting_for_lock = True
        try:
            check = partial(self._downloads.executor.run, self.request.check_saved)
            await self._downloads.fetch_locks.acquire(self._lock_request, between_tries=check)
        finally:
            self._is_waiting_for_lock = False

    def _release_lock(self) -> None:
        if self._lock_request is not None:
            self._downloads.fetch_locks.release(self._lock_request)
            self._lock_request = None

    async def _fetch(self) -> None:
        started_at = time.monotonic()
        error: Exception | None = None
        sources = await self._downloads.executor.run(self.request.sources)
        self._sink.algorithms = algorithms_for(sources)
        for source in sources:
            if not self._clients and not source.saves:
                break
            if not source.saves:
                self._release_lock()  # other processes have nothing to wait for
            error = await self._fetch_from(source)
            if error is None:
                return
            is_late = time.monotonic() - started_at > FAILOVER_TIMEOUT and not self._sink.available
            if is_late or self._sink.cannot_resume():
                break
        raise self.request.client_error(error) or failure_of(error)

    async def _fetch_from(self, source: RemoteSource) -> Exception | None:
        """Fetch from one source; return the exception on failure.

        Raises StoreUnavailable, NotModified.
        """
        self._source = self._sink.source = source
        try:
            await fetch(source, self._sink)
            return (
                None
                if self._sink.complete
                else CannotResume("the downloader ended without finalizing the file")
            )
        except (StoreUnavailable, NotModified):
            raise
        except Exception as error:
            if self._sink.complete:
                return None  # a failure after the end, such as in closing, costs nothing
            log.warning(
                "Remote '%s' failed to send the %s: %s",
                source.remote.name,
                self.request.name,
                reason(error),
            )
            if isinstance(error, Mismatch):
                with self._downloads.executor.asynchronous_orm():
                    await mark_failed(error.source or source)
            return error

    async def _save(self) -> None:
        """Save the file, then release its last byte, at the latest after LAST_BYTE_TIMEOUT."""
        spool = self._sink.spool
        if spool is None or self._source is None or not self._source.saves:
            return
        timer = asyncio.get_running_loop().call_later(LAST_BYTE_TIMEOUT, self._release_unsaved)
        try:
            await spool.sync()
            attributes: dict[str, str | int] = {"size": spool.size, **spool.digests()}
            await self._downloads.save_executor.run(self.request.save, spool.path, attributes)
        except Exception as error:
            # Clients have the file nevertheless; a later request tries to save it.
            log.error(
                "The %s could not be saved: %s. A later request tries again.",
                self.request.name,
                reason(error),
            )
        finally:
            timer.cancel()
            self._sink.release()

    def _release_unsaved(self) -> None:
        log.warning(
            "Saving the %s takes more than %d s; clients get its end before it is saved. Check the"
            " load of the storage and of the database.",
            self.request.name,
            LAST_BYTE_TIMEOUT,
        )
        self._sink.release()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._downloads.invalidate(self)
        self._notify()

    def _dispose(self) -> None:
        self._downloads.invalidate(self)
        self._sink.close()

    def _on_progress(self) -> None:
        if self._sink.complete and self.on_complete is not None:
            self.on_complete(self)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
