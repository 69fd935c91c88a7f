"""One download that any number of clients read from, each at its own speed."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from pulpcore.app.contexts import with_domain
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
from pulpcore.content_star.remote.sink import VerifyingSink
from pulpcore.content_star.responses.source import StoreUnavailable
from pulpcore.content_star.storage.disk import LocalFile

if TYPE_CHECKING:
    from pulpcore.content_star.remote.downloads import Downloads

log = logging.getLogger(__name__)

# Seconds after which no other remote is asked while clients have no byte yet.
FAILOVER_TIMEOUT = 60.0

# Seconds for which clients wait for the end of a file that is being saved: whoever has all of it
# finds it saved. Longer than a busy storage takes, shorter than the timeouts of clients.
SAVE_TIMEOUT = 5.0


class Download:
    """Fetches a file in a task of its own, for those who have entered and to save it.

    Nothing depends on a single client. When the last one leaves, the task ends if there is nothing
    to save, or if another process is fetching, and goes on if it is to be saved.
    """

    def __init__(self, request: FetchRequest, downloads: "Downloads") -> None:
        self.request = request
        self.failure: Exception | None = None
        self.on_complete: Callable[[Download], None] | None = None
        """Called once, when it is complete and before clients know."""
        self._sink = VerifyingSink(request, self._on_progress)
        self._downloads = downloads
        self._clients = 0
        self._source: RemoteSource | None = None
        self._lock_request: LockRequest | None = None
        self._is_waiting_for_lock = False  # for another process
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"fetch {request.name}")

    # For clients

    @property
    def size(self) -> int | None:
        """In bytes; None as long as nobody knows. It holds once there are bytes."""
        return self._sink.size

    @property
    def sha256(self) -> str | None:
        """None as long as nobody knows."""
        return self._sink.sha256

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that came with the first bytes, if the downloader tells headers, or that the
        remote has told since."""
        return self._sink.response_headers

    @headers.setter
    def headers(self, headers: Mapping[str, str]) -> None:
        self._sink.response_headers = headers

    @property
    def complete(self) -> bool:
        """Whether all has come, and is right."""
        return self._sink.complete

    def retain(self) -> None:
        """Be one of those for whom it goes on, until `leave`."""
        self._clients += 1

    def release(self) -> None:
        """Let it end if this was the last client and there is nothing to save here."""
        self._clients -= 1
        if self._clients:
            return
        if self.task.done():
            self._dispose()
        elif self._is_waiting_for_lock or (self._is_for_clients_only() and not self._sink.complete):
            self._cancel()

    def _is_for_clients_only(self) -> bool:
        """Whether only clients want it."""
        return self._source is not None and not self._source.saves

    async def wait_for_start(self) -> None:
        """Wait for the first bytes. Raises RemoteUnavailable, StoreUnavailable, AlreadySaved."""
        while not (self._sink.available or self._sink.complete):
            await self._next_change()

    async def wait_for_size(self) -> int:
        """Wait until there are bytes and return the size. Raises as `begun`, and RemoteBroke.

        That may be at the end, where the remote does not say it.
        """
        await self.wait_for_start()
        while self._sink.size is None:
            await self._next_change()
        return self._sink.size

    async def wait_for_bytes(self, stop: int) -> None:
        """Wait until the bytes up to `stop` are available, of an empty file until its end is.

        Raises RemoteBroke, also where they are and turned out to be wrong."""
        sink = self._sink
        while sink.available < stop or sink.is_wrong or self._is_end_withheld(stop):
            await self._next_change()

    def _is_end_withheld(self, stop: int) -> bool:
        return stop == self._sink.size and not self._sink.released

    async def wait_for_more(self, offset: int) -> int:
        """Wait for bytes behind `offset` and return how many there are: `offset` at the end.

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
        """Open what has been written; it has to have `begun`."""
        assert self._sink.spool is not None
        return self._sink.spool.reader()

    def stop(self) -> None:
        """End it, unless all has come and is to be saved, which does not take long."""
        if not self._sink.complete or self._is_for_clients_only():
            self._cancel()

    def _cancel(self) -> None:
        self._downloads.invalidate(self)  # at once: nobody may join what is about to end
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
        """Let another process fetch and save it, if one does. Raises AlreadySaved."""
        self._lock_request = LockRequest(self.request.identity)
        self._is_waiting_for_lock = True
        try:
            check = partial(self._downloads.executor.run, self.request.check_saved)
            await self._downloads.fetch_lock.acquire(self._lock_request, between_tries=check)
        finally:
            self._is_waiting_for_lock = False

    def _release_lock(self) -> None:
        if self._lock_request is not None:
            self._downloads.fetch_lock.release(self._lock_request)
            self._lock_request = None

    async def _fetch(self) -> None:
        started_at = time.monotonic()
        error: Exception | None = None
        for source in await self._downloads.executor.run(self.request.sources):
            if not self._clients and not source.saves:
                break
            if not source.saves:
                self._release_lock()  # there will be nothing to wait for
            error = await self._fetch_from(source)
            if error is None:
                return
            is_late = time.monotonic() - started_at > FAILOVER_TIMEOUT and not self._sink.available
            if is_late or self._sink.cannot_resume():
                break
        raise self.request.client_error(error) or failure_of(error)

    async def _fetch_from(self, source: RemoteSource) -> Exception | None:
        """Return what went wrong, if something did. Raises StoreUnavailable, NotModified."""
        self._source = self._sink.source = source
        try:
            await fetch(source, self._sink)
            return (
                None
                if self._sink.complete
                else CannotResume("the downloader said nothing of its end")
            )
        except (StoreUnavailable, NotModified):
            raise
        except Exception as error:
            if self._sink.complete:
                return None  # what fails after the end, such as closing, takes nothing away
            log.warning(
                "Remote '%s' failed to send the %s: %s",
                source.remote.name,
                self.request.name,
                reason(error),
            )
            if isinstance(error, Mismatch):
                await self._downloads.executor.run(mark_failed, error.source or source)
            return error

    async def _save(self) -> None:
        """Save the file, and let clients have its end then, or after SAVE_TIMEOUT."""
        spool = self._sink.spool
        if spool is None or self._source is None or not self._source.saves:
            return
        timer = asyncio.get_running_loop().call_later(SAVE_TIMEOUT, self._release_unsaved)
        try:
            await spool.sync()
            attributes: dict[str, str | int] = {"size": spool.size, **spool.digests()}
            await self._downloads.save_executor.run(self.request.save, spool.path, attributes)
        except Exception as error:
            # The clients have what they asked for; the next one lets us try again.
            log.error("The %s could not be saved: %s", self.request.name, reason(error))
        finally:
            timer.cancel()
            self._sink.release()

    def _release_unsaved(self) -> None:
        log.warning(
            "Saving the %s takes more than %d s; clients get its end before it is saved. Check the"
            " load of the storage and of the database.",
            self.request.name,
            SAVE_TIMEOUT,
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
