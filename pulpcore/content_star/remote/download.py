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
    Mismatch,
    RemoteBroke,
    RemoteUnavailable,
    Stuck,
    failure_of,
    reason,
)
from pulpcore.content_star.remote.lock import LockName
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
PATIENCE = 60.0

# Seconds for which clients wait for the end of a file that is being saved: whoever has all of it
# finds it saved. Longer than a busy storage takes, shorter than the timeouts of clients.
SAVE_TIMEOUT = 5.0


class Download:
    """Fetches a file in a task of its own, for those who have entered and to save it.

    Nothing depends on a single client. When the last one leaves, the task ends if there is nothing
    to save, or if another process is fetching, and goes on if it is to be saved.
    """

    def __init__(self, wanted: FetchRequest, owner: "Downloads") -> None:
        self.wanted = wanted
        self.failure: Exception | None = None
        self.arrived: Callable[[Download], None] | None = None
        """Called once, when it is complete and before clients know."""
        self._intake = VerifyingSink(wanted, self._more)
        self._owner = owner
        self._clients = 0
        self._source: RemoteSource | None = None
        self._seat: LockName | None = None
        self._is_waiting = False  # for another process
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"fetch {wanted.name}")

    # For clients

    @property
    def size(self) -> int | None:
        """In bytes; None as long as nobody knows. It holds once there are bytes."""
        return self._intake.size

    @property
    def sha256(self) -> str | None:
        """None as long as nobody knows."""
        return self._intake.sha256

    @property
    def told(self) -> Mapping[str, str]:
        """Headers that came with the first bytes, if the downloader tells headers, or that the
        remote has told since."""
        return self._intake.told

    @told.setter
    def told(self, headers: Mapping[str, str]) -> None:
        self._intake.told = headers

    @property
    def complete(self) -> bool:
        """Whether all has come, and is right."""
        return self._intake.complete

    def enter(self) -> None:
        """Be one of those for whom it goes on, until `leave`."""
        self._clients += 1

    def leave(self) -> None:
        """Let it end if this was the last client and there is nothing to save here."""
        self._clients -= 1
        if self._clients:
            return
        if self.task.done():
            self._dispose()
        elif self._is_waiting or (self._is_in_vain() and not self._intake.complete):
            self._cancel()

    def _is_in_vain(self) -> bool:
        """Whether only clients want it."""
        return self._source is not None and not self._source.saves

    async def begun(self) -> None:
        """Wait for the first bytes. Raises RemoteUnavailable, StoreUnavailable, AlreadySaved."""
        while not (self._intake.available or self._intake.complete):
            await self._next_change()

    async def sized(self) -> int:
        """Wait until there are bytes and return the size. Raises as `begun`, and RemoteBroke.

        That may be at the end, where the remote does not say it.
        """
        await self.begun()
        while self._intake.size is None:
            await self._next_change()
        return self._intake.size

    async def reaches(self, stop: int) -> None:
        """Wait until the bytes up to `stop` are available, of an empty file until its end is.

        Raises RemoteBroke, also where they are and turned out to be wrong."""
        intake = self._intake
        while intake.available < stop or intake.is_wrong or self._is_held(stop):
            await self._next_change()

    def _is_held(self, stop: int) -> bool:
        return stop == self._intake.size and not self._intake.released

    async def grown(self, offset: int) -> int:
        """Wait for bytes behind `offset` and return how many there are: `offset` at the end.

        Raises RemoteBroke.
        """
        intake = self._intake
        while intake.is_wrong or (intake.available <= offset and not intake.released):
            await self._next_change()
        return self._intake.available

    async def _next_change(self) -> None:
        if self.failure is not None:
            kind = RemoteBroke if self._intake.available else type(self.failure)
            raise kind(*self.failure.args)
        await self._changed.wait()

    def open(self) -> LocalFile:
        """Open what has been written; it has to have `begun`."""
        assert self._intake.spool is not None
        return self._intake.spool.reader()

    def stop(self) -> None:
        """End it, unless all has come and is to be saved, which does not take long."""
        if not self._intake.complete or self._is_in_vain():
            self._cancel()

    def _cancel(self) -> None:
        self._owner.invalidate(self)  # at once: nobody may join what is about to end
        self.task.cancel()

    # The task

    async def _run(self) -> None:
        try:
            with with_domain(self.wanted.domain):
                if self.wanted.saves:
                    await self._wait_for_turn()
                await self._fetch()
                await self._save()
        except asyncio.CancelledError:
            self._fail(RemoteUnavailable("The download was cancelled."))
            raise
        except Exception as error:
            self._fail(error)
        finally:
            self._give_way()
            self._intake.unlink()
            if not self._clients:
                self._dispose()

    async def _wait_for_turn(self) -> None:
        """Let another process fetch and save it, if one does. Raises AlreadySaved."""
        self._seat = LockName(self.wanted.identity)
        self._is_waiting = True
        try:
            check = partial(self._owner.executor.run, self.wanted.check_saved)
            await self._owner.election.take(self._seat, meanwhile=check)
        finally:
            self._is_waiting = False

    def _give_way(self) -> None:
        if self._seat is not None:
            self._owner.election.leave(self._seat)
            self._seat = None

    async def _fetch(self) -> None:
        begun_at = time.monotonic()
        error: Exception | None = None
        for source in await self._owner.executor.run(self.wanted.sources):
            if not self._clients and not source.saves:
                break
            if not source.saves:
                self._give_way()  # there will be nothing to wait for
            error = await self._fetch_from(source)
            if error is None:
                return
            is_late = time.monotonic() - begun_at > PATIENCE and not self._intake.available
            if is_late or self._intake.is_stuck():
                break
        raise self.wanted.refusal(error) or failure_of(error)

    async def _fetch_from(self, source: RemoteSource) -> Exception | None:
        """Return what went wrong, if something did. Raises StoreUnavailable, NotModified."""
        self._source = self._intake.source = source
        try:
            await fetch(source, self._intake)
            return (
                None if self._intake.complete else Stuck("the downloader said nothing of its end")
            )
        except (StoreUnavailable, NotModified):
            raise
        except Exception as error:
            if self._intake.complete:
                return None  # what fails after the end, such as closing, takes nothing away
            log.warning(
                "Remote '%s' failed to send the %s: %s",
                source.remote.name,
                self.wanted.name,
                reason(error),
            )
            if isinstance(error, Mismatch):
                await self._owner.executor.run(mark_failed, error.source or source)
            return error

    async def _save(self) -> None:
        """Save the file, and let clients have its end then, or after SAVE_TIMEOUT."""
        spool = self._intake.spool
        if spool is None or self._source is None or not self._source.saves:
            return
        late = asyncio.get_running_loop().call_later(SAVE_TIMEOUT, self._release_late)
        try:
            await spool.sync()
            attributes: dict[str, str | int] = {"size": spool.size, **spool.digests()}
            await self._owner.saving_door.run(self.wanted.save, spool.path, attributes)
        except Exception as error:
            # The clients have what they asked for; the next one lets us try again.
            log.error("The %s could not be saved: %s", self.wanted.name, reason(error))
        finally:
            late.cancel()
            self._intake.release()

    def _release_late(self) -> None:
        log.warning(
            "Saving the %s takes more than %d s; clients get its end before it is saved. Check the"
            " load of the storage and of the database.",
            self.wanted.name,
            SAVE_TIMEOUT,
        )
        self._intake.release()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._owner.invalidate(self)
        self._announce()

    def _dispose(self) -> None:
        self._owner.invalidate(self)
        self._intake.close()

    def _more(self) -> None:
        if self._intake.complete and self.arrived is not None:
            self.arrived(self)
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
