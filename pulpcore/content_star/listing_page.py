"""HTML listings of directories whose content never changes: read once, kept, and sent in parts.

What a publication or a complete repository version holds at a path stays the same for as long as
it exists, so rows are kept by their ids and need no invalidation: what replaces it has other ids,
and who asks for something deleted does not get this far.

Rows are kept compressed, at some 20 bytes an entry. Large directories are read while they are sent,
one at a time in a process, so that files do not wait for database threads; how fast clients take
them is not the database's affair.
"""

import asyncio
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar, checkpoint
from starlette.types import Receive, Scope, Send

from pulpcore.content_star import directory
from pulpcore.content_star.db import current_door
from pulpcore.content_star.directory import Entry
from pulpcore.content_star.html_listing import frame
from pulpcore.content_star.html_listing import rows as rows_of
from pulpcore.content_star.lookup import Source
from pulpcore.content_star.responses.body import until_disconnect
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

# Compressed bytes of rows that a process keeps: about a million entries. What is used least goes.
KEPT_BYTES = 24 * 1024 * 1024

# Of one directory.
MOST_KEPT = KEPT_BYTES // 4

_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_HEADERS.append((b"content-type", b"text/html; charset=utf-8"))

# Keeps what reads on from being collected.
_under_way: set[asyncio.Future[None]] = set()

_reading: RunVar[CapacityLimiter] = RunVar("content_star_listing")

Key = tuple[UUID | None, UUID, str, tuple[str, ...]]


class Rows:
    """The rows of a directory as HTML, in compressed blocks."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.size = 0
        """Bytes of all, not compressed."""
        self.cost = 1000
        """Bytes that they take, about."""
        self.last_name: str | None = None
        self.are_final = True
        """Whether they will not change: the size of a file that no remote told will be known."""

    def add(self, entries: Sequence[Entry]) -> bytes:
        """Add the rows of `entries`, and return them as a block."""
        html = rows_of(entries).encode()
        block = zlib.compress(html, 1)
        self.size += len(html)
        self.cost += len(block)
        self.blocks.append(block)
        sized = (entry.size is not None or entry.name.endswith("/") for entry in entries)
        self.are_final = self.are_final and all(sized)
        self.last_name = entries[-1].name
        return block


class KeptRows:
    """Rows by what they are of, as many as fit into `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[Key, Rows] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Rows | None:
        """Return the rows of `key`, which are the last to go now."""
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
            return self._rows.get(key)

    def keep(self, key: Key, rows: Rows) -> None:
        """Keep `rows`, which are at most `MOST_KEPT` bytes."""
        with self._lock:
            if key in self._rows:
                return
            self._rows[key] = rows
            self._cost += rows.cost
            while self._cost > self._capacity:
                _, gone = self._rows.popitem(last=False)
                self._cost -= gone.cost


kept_rows = KeptRows(KEPT_BYTES)


class Level:
    """A directory of `source`, with the names that a plugin adds to it, sorted."""

    def __init__(self, source: Source, path: str, added: Sequence[str]) -> None:
        """`path` is empty for the root or ends in a slash."""
        assert source.version is not None
        self.source = source
        self.path = path
        self.added = added
        publication = source.publication
        self._key: Key = (publication and publication.pk, source.version.pk, path, tuple(added))
        self.is_large = False
        """Whether rows are read while they are sent, as `read` has found out."""
        self._may_keep = source.version.complete and (publication is None or publication.complete)

    def kept(self) -> Rows | None:
        """Return the rows if they are kept."""
        return kept_rows.get(self._key)

    def keep(self, rows: Rows) -> None:
        """Keep the rows for others."""
        if self._may_keep and rows.are_final and rows.cost <= MOST_KEPT:
            kept_rows.keep(self._key, rows)

    def read(self) -> Rows | None:
        """Read the rows if they are few; None if there are many, or none at all. Blocks."""
        entries = directory.few_entries(self.source, self.path)
        self.is_large = entries is None
        if entries is None or not (entries or self.added):
            return None
        rows = Rows()
        rows.add(self._with_added(entries))
        self.keep(rows)
        return rows

    def read_on(self, rows: Rows, told: Callable[[bytes], None]) -> None:
        """Read what is not in `rows` yet, telling of each block. Blocks.

        Done again after the connection was lost it goes on where it stopped.
        """
        entries: list[Entry] = []
        for part in directory.all_entries(self.source, self.path, rows.last_name):
            if self.added:
                entries += part
            else:
                told(rows.add(part))
            if rows.cost > MOST_KEPT:
                rows.blocks.clear()  # only for whoever waits for them now
        if self.added:
            told(rows.add(self._with_added(entries)))
        self.keep(rows)

    def _with_added(self, entries: list[Entry]) -> list[Entry]:
        names = {name: Entry(name) for name in self.added}
        names |= {entry.name: entry for entry in entries}
        return [names[name] for name in sorted(names)] if self.added else entries


class ListingPage:
    """ASGI application that sends the page of a level, reading its rows first if there are none."""

    def __init__(self, path: str, level: Level, rows: Rows | None, usage: str = "") -> None:
        """`path` is the decoded one of the URL; `usage` as `html_listing` takes it."""
        self.head, self.tail = (part.encode() for part in frame(path, usage=usage))
        self.level = level
        self.rows = rows
        self.door = current_door()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, partial(self._send, send))

    async def _send(self, send: Send) -> None:
        headers = _HEADERS.copy()
        if self.rows is not None:
            length = len(self.head) + self.rows.size + len(self.tail)
            headers.append((b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.head, "more_body": True})
        if self.rows is not None:
            for block in self.rows.blocks:
                await _send_block(block, send)
        else:
            await self._send_as_read(send)
        await send({"type": "http.response.body", "body": self.tail})

    async def _send_as_read(self, send: Send) -> None:
        blocks: asyncio.Queue[bytes | None] = asyncio.Queue()
        left = threading.Event()
        reading = asyncio.ensure_future(self._read(blocks.put_nowait, left))
        _under_way.add(reading)
        reading.add_done_callback(_under_way.discard)
        try:
            while (block := await blocks.get()) is not None:
                await _send_block(block, send)
        except BaseException:
            left.set()
            raise
        await reading

    async def _read(self, put: Callable[[bytes | None], None], left: threading.Event) -> None:
        """`put` the rows and then None; stop early when the client has `left`."""
        assert self.door is not None
        loop = asyncio.get_running_loop()

        def told(block: bytes) -> None:
            if left.is_set():
                raise _ClientLeft
            loop.call_soon_threadsafe(put, block)

        try:
            async with _one_at_a_time():
                # Somebody else may have read them while we waited.
                if rows := self.level.kept():
                    for block in rows.blocks:
                        put(block)
                elif not left.is_set():
                    await self.door.run(self.level.read_on, Rows(), told)
        except _ClientLeft:
            pass
        finally:
            put(None)


class _ClientLeft(Exception):
    """Nobody waits for the rest."""


async def _send_block(block: bytes, send: Send) -> None:
    body = zlib.decompress(block)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await checkpoint()


def _one_at_a_time() -> CapacityLimiter:
    try:
        return _reading.get()
    except LookupError:
        limiter = CapacityLimiter(1)
        _reading.set(limiter)
        return limiter
