"""One download that any number of clients read from, each at its own speed."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from anyio.lowlevel import RunVar
from django.conf import settings

from pulpcore.app import pulp_hashlib
from pulpcore.app.contexts import with_domain
from pulpcore.app.models import Artifact
from pulpcore.content_star.db import Door
from pulpcore.content_star.remote.fetch import fetch
from pulpcore.content_star.remote.sources import (
    AlreadySaved,
    NotModified,
    Source,
    Wanted,
    mark_failed,
)
from pulpcore.content_star.remote.spool import Spool
from pulpcore.content_star.responses.disk import LocalFile, in_thread
from pulpcore.content_star.responses.source import StoreBroke, StoreUnavailable

log = logging.getLogger(__name__)

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<size>\d+)")

# For work that holds a database connection while a storage takes a whole file: not those of the
# requests, which would have to wait.
SAVING_THREADS = 2


class RemoteUnavailable(Exception):
    """No remote could be made to send the file. Neither URLs nor credentials are in the message."""


class RemoteBroke(StoreBroke):
    """The remotes stopped sending in the middle, or what they sent is not what they announced."""


class Mismatch(Exception):
    """`source` sends other bytes than it announced."""

    def __init__(self, reason: str, source: Source | None) -> None:
        super().__init__(reason)
        self.source = source


class Download:
    """Fetches a file in a task of its own, for those who have entered and to save it.

    Nothing depends on a single client. When the last one leaves, the task ends if there is nothing
    to save, and goes on if there is. The last byte of the file is kept back until all of it has
    been verified, so nobody ever has the whole of a file that is wrong.

    It is the `Sink` of the downloaders that it tries one after the other.
    """

    def __init__(self, wanted: Wanted, owner: "Downloads") -> None:
        self.wanted = wanted
        self.size = wanted.size
        """In bytes; None as long as nobody knows. It holds once `available` is more than 0."""
        self.sha256 = wanted.sha256
        self.told: Mapping[str, str] = {}
        """Headers that came with the first bytes, if the downloader tells headers."""
        self.available = 0
        """Bytes from the start on that clients may have."""
        self.complete = False
        self.failure: Exception | None = None
        self.arrived: Callable[[Download], None] | None = None
        """Called once, when it is complete and before clients know."""
        self._owner = owner
        self._clients = 0
        self._spool: Spool | None = None
        self._source: Source | None = None
        self._origin: Source | None = None  # whose the first bytes are
        self._position = 0  # of the source that sends now
        self._is_wrong = False
        self._error: Exception | None = None  # why the last source did not do
        self._saving = False
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"fetch {wanted.name}")

    # For clients

    def enter(self) -> None:
        """Be one of those for whom it goes on, until `leave`."""
        self._clients += 1

    def leave(self) -> None:
        """Let it end if this was the last client and there is nothing to save."""
        self._clients -= 1
        if self._clients:
            return
        if self.task.done():
            self._dispose()
        elif self._source is not None and not self._source.saves and not self.complete:
            self._cancel()

    async def begun(self) -> None:
        """Wait for the first bytes. Raises RemoteUnavailable, StoreUnavailable, AlreadySaved."""
        while not (self.available or self.complete):
            await self._next_change()

    async def described(self) -> tuple[int, str]:
        """Wait until size and sha256 are known and return them. Raises as `begun`, and RemoteBroke.

        That may be at the end, where the remote says too little.
        """
        await self.begun()
        while self.size is None or self.sha256 is None:
            await self._next_change()
        return self.size, self.sha256

    async def reaches(self, stop: int) -> None:
        """Wait until the bytes up to `stop` are available. Raises RemoteBroke."""
        while self.available < stop:
            await self._next_change()

    async def grown(self, offset: int) -> int:
        """Wait for bytes behind `offset` and return `available`, which is `offset` at the end.

        Raises RemoteBroke.
        """
        while self.available <= offset and not self.complete:
            await self._next_change()
        return self.available

    async def _next_change(self) -> None:
        if self.failure is not None:
            kind = RemoteBroke if self.available else type(self.failure)
            raise kind(*self.failure.args)
        await self._changed.wait()

    def open(self) -> LocalFile:
        """Open what has been written; it has to have `begun`."""
        assert self._spool is not None
        return self._spool.reader()

    def stop(self) -> None:
        """End it, unless it is saving, which does not take long."""
        if not self._saving:
            self._cancel()

    def _cancel(self) -> None:
        self._owner.forget(self)  # at once: nobody may join what is about to end
        self.task.cancel()

    # The task

    async def _run(self) -> None:
        try:
            with with_domain(self.wanted.domain):
                await self._fetch()
                await self._save()
        except asyncio.CancelledError:
            self._fail(RemoteUnavailable("The download was cancelled."))
            raise
        except Exception as error:
            self._fail(error)
        finally:
            if self._spool is not None:
                self._spool.unlink()
            if not self._clients:
                self._dispose()

    async def _fetch(self) -> None:
        for source in await self._owner.door.run(self.wanted.sources):
            if not self._clients and not source.saves:
                break
            if await self._fetch_from(source):
                return
            if self._is_stuck():
                break
        raise self.wanted.refusal(self._error) or RemoteUnavailable(
            "No remote could send the file."
        )

    async def _fetch_from(self, source: Source) -> bool:
        self._source = source
        try:
            await fetch(source, self)
            return self.complete
        except (StoreUnavailable, NotModified):
            raise
        except Exception as error:
            self._error = error
            log.warning(
                "Remote '%s' failed to send the %s: %s",
                source.remote.name,
                self.wanted.name,
                reason_of(error),
            )
            if isinstance(error, Mismatch):
                await self._owner.door.run(mark_failed, error.source or source)
            return False

    def _is_stuck(self) -> bool:
        """Whether clients have bytes that no other source can be trusted to go on from."""
        return bool(self.available) and (self._is_wrong or self.wanted.sha256 is None)

    async def _save(self) -> None:
        if self._spool is None or self._source is None or not self._source.saves:
            return
        self._saving = True
        try:
            await self._spool.sync()
            attributes: dict[str, str | int] = {"size": self._spool.size, **self._spool.digests()}
            await self._owner.saving_door.run(self.wanted.save, self._spool.path, attributes)
        except Exception as error:
            # The clients have what they asked for; the next one lets us try again.
            log.error("The %s could not be saved: %s", self.wanted.name, reason_of(error))

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._owner.forget(self)
        self._announce()

    def _dispose(self) -> None:
        self._owner.forget(self)
        if self._spool is not None:
            self._spool.close()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The sink

    async def restart(self) -> int:
        """Go on behind the bytes that clients have, if their digest is known in the end."""
        if self._spool is None:
            hashers = {name: partial(pulp_hashlib.new, name) for name in Artifact.DIGEST_FIELDS}
            directory = str(settings.WORKING_DIRECTORY)
            self._spool = await in_thread(Spool, directory, hashers)
        self._position = 0
        if self._is_stuck():
            raise RemoteUnavailable("The file cannot be gone on with.")
        if not self.available:
            self.size = self.wanted.size
            self._origin = self._source
            self._is_wrong = False
            await self._spool.clear()
        return self._spool.size

    async def headers(self, headers: Mapping[str, str]) -> None:
        """Learn the size, where it is the size of the file and not of something encoded."""
        assert self._spool is not None
        part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        length = part["size"] if part else headers.get("Content-Length")
        if not self.available:
            self.told = headers
        if part and int(part["first"]) != self._spool.size:
            raise Mismatch(f"from byte {part['first']} instead of {self._spool.size}", self._source)
        if part:
            self._position = self._spool.size
        if length is None or not length.isdecimal() or headers.get("Content-Encoding"):
            return
        if self.size is None:
            self.size = int(length)
        elif int(length) != self.size:
            raise Mismatch(f"{length} bytes instead of {self.size}", self._source)

    async def write(self, data: bytes) -> None:
        """Keep what is new, and let clients have what is not the end."""
        assert self._spool is not None
        known = self._spool.size - self._position
        self._position += len(data)
        if self.size is not None and self._position > self.size:
            raise Mismatch(f"more than {self.size} bytes", self._source)
        if known > 0:
            data = data[known:]
        if not data:
            return
        before = self._spool.size
        await self._spool.write(data)
        is_end = self.size is None or self._spool.size == self.size
        self.available = before if is_end else self._spool.size
        self._announce()

    async def finish(self) -> None:
        """Verify the file, and only then let clients have its end. Raises Mismatch."""
        assert self._spool is not None and self._source is not None
        if self._position < self._spool.size or self.size not in (None, self._position):
            raise Mismatch(f"{self._position} bytes instead of {self.size}", self._source)
        digests = self._spool.digests()
        expected = dict(self._source.digests)
        if self.wanted.sha256:
            expected["sha256"] = self.wanted.sha256
        for name, digest in expected.items():
            if digests[name] != digest:
                self._is_wrong = True
                raise Mismatch(f"the {name} digest is another", self._origin)
        self.size = self.available = self._spool.size
        self.sha256 = digests["sha256"]
        self.complete = True
        if self.arrived is not None:
            self.arrived(self)
        self._announce()


class Downloads:
    """The downloads of a process, by what is wanted."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.saving_door = Door(SAVING_THREADS, name="content-save")
        self._downloads: dict[Wanted, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, wanted: Wanted) -> Download:
        """Return the download of `wanted`, and start it if there is none. Enter it at once."""
        download = self._downloads.get(wanted)
        if download is None:
            download = self._downloads[wanted] = Download(wanted, self)
            self._tasks.add(download.task)
            download.task.add_done_callback(self._tasks.discard)
        return download

    def has(self, wanted: Wanted) -> bool:
        """Tell whether there is a download of `wanted` to join."""
        return wanted in self._downloads

    def later(self, work: Callable[[], None]) -> None:
        """Do `work` behind the door for saving; nobody waits for it, but the end of the process."""
        task = asyncio.create_task(self._later(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _later(self, work: Callable[[], None]) -> None:
        try:
            await self.saving_door.run(work)
        except Exception as error:
            log.error("What was to be done later failed: %s", reason_of(error), exc_info=error)

    def forget(self, download: Download) -> None:
        """Let the next one who asks start anew."""
        if self._downloads.get(download.wanted) is download:
            del self._downloads[download.wanted]

    async def close(self) -> None:
        """End all downloads; those that are being saved are waited for."""
        for download in list(self._downloads.values()):
            download.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.saving_door.close()


_current: RunVar[Downloads] = RunVar("content_star_downloads")


def current_downloads() -> Downloads:
    """Return those of this event loop, within `downloads`."""
    return _current.get()


@asynccontextmanager
async def downloads(door: Door) -> AsyncIterator[None]:
    """Have downloads in this event loop until the block ends."""
    mine = Downloads(door)
    token = _current.set(mine)
    try:
        yield
    finally:
        await mine.close()
        _current.reset(token)


def reason_of(error: Exception) -> str:
    """What went wrong, without what the error says: a URL may be in it."""
    if isinstance(error, (Mismatch, AlreadySaved, RemoteUnavailable)):
        return str(error)
    status = getattr(error, "status", None)
    return f"{type(error).__name__} {status}" if status else type(error).__name__
