"""HTML listings of directories whose content never changes: read in parts, kept, and shared.

What a publication or a complete repository version holds at a path stays the same for as long as
it exists, so rows are kept by their ids and need no invalidation: what replaces it has other ids,
and requests for something deleted do not get this far.

Rows are kept as they are sent with gzip, at some 20 bytes an entry. A large directory is read while
it is sent, a part at a time and no part before the client has taken those before it: a client that
reads nothing keeps neither a thread nor a database connection, and no other listing waiting. What
was read for one client is there for all.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar, checkpoint
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.database.executor import current_executor
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings.directory import DirectoryEntry
from pulpcore.content_star.listings.html import frame
from pulpcore.content_star.listings.html import rows as rows_of
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.responses.body import until_disconnect
from pulpcore.content_star.responses.conditional import Validators, evaluate
from pulpcore.content_star.responses.text import (
    GzipText,
    PlainText,
    deflate,
    text_headers,
    weak_etag,
)

# Compressed bytes of rows that a process keeps: about a million entries. What is used least goes.
KEPT_BYTES = 24 * 1024 * 1024

# Of one directory.
MOST_KEPT = KEPT_BYTES // 4

_reading: RunVar[CapacityLimiter] = RunVar("content_star_listing")

Key = tuple[UUID | None, UUID, str, tuple[str, ...]]


class Block(NamedTuple):
    """Rows of consecutive entries."""

    html: bytes
    """Deflated."""

    last_name: str
    is_last: bool


class Rows:
    """The first blocks of a directory, or all of them."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.size = 0
        """Bytes of the HTML."""
        self.deflated = 0
        """Bytes of the blocks."""
        self.expires = float("inf")
        """On the monotonic clock: when the size of a file may have become known."""
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return 1000 + self.deflated + 200 * len(self.blocks)

    @property
    def is_complete(self) -> bool:
        """Whether these are all rows of the directory."""
        return bool(self.blocks) and self.blocks[-1].is_last

    @property
    def digest(self) -> bytes:
        """Digest of the HTML."""
        return self._digest.digest()

    def add(
        self, entries: Sequence[DirectoryEntry], is_last: bool, previous: Block | None
    ) -> Block:
        """Return the block of `entries`, added if it follows on what there is and is not too much.

        Called by one thread at a time.
        """
        html = rows_of(entries).encode()
        last_name = entries[-1].name if entries else previous.last_name if previous else ""
        block = Block(deflate(html), last_name, is_last)
        last = self.blocks[-1] if self.blocks else None
        if previous is last and self.cost + len(block.html) <= MOST_KEPT:
            if any(entry.may_change for entry in entries):
                self.expires = min(self.expires, time.monotonic() + directory.UNSIZED_SECONDS)
            self.size += len(html)
            self.deflated += len(block.html)
            self._digest.update(html)
            self.blocks.append(block)
        return block


class RowCache:
    """Rows by their directory, as many as fit into `capacity` bytes; least recently used go."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[Key, tuple[Rows, int]] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Rows | None:
        """Return the rows of `key`, which are the last to go now."""
        with self._lock:
            rows, _ = self._rows.get(key, (None, 0))
            if rows is None or rows.expires < time.monotonic():
                return None
            self._rows.move_to_end(key)
            return rows

    def keep(self, key: Key, rows: Rows) -> None:
        """Keep `rows`, or count them again when they have grown."""
        with self._lock:
            _, cost = self._rows.pop(key, (None, 0))
            self._rows[key] = rows, rows.cost
            self._cost += rows.cost - cost
            while self._cost > self._capacity:
                _, (_, cost) = self._rows.popitem(last=False)
                self._cost -= cost


kept_rows = RowCache(KEPT_BYTES)


class Level:
    """A directory of `source`, with the names that a plugin adds to it, sorted."""

    def __init__(self, source: ContentSource, path: str, added: Sequence[str]) -> None:
        """`path` is empty for the root or ends in a slash."""
        self.source = source
        self.path = path
        self.added = added
        self._key: Key = (*directory.key_of(source, path), tuple(added))
        self._may_keep = directory.is_immutable(source)

    def entry(self) -> Rows | None:
        """Return the rows that are kept, if they are."""
        return kept_rows.get(self._key) if self._may_keep else None

    def read(self) -> Rows | None:
        """Return the rows that are kept, or read the first; None if there are none. Blocks."""
        rows = self.entry()
        if rows is None:
            rows = Rows()
            self.block(rows, 0, None)
        return rows if rows.size else None

    def block(self, rows: Rows, index: int, previous: Block | None) -> Block:
        """Return the block that follows `previous`, from `rows` or the database. Blocks."""
        if index < len(rows.blocks):
            return rows.blocks[index]
        after = previous.last_name if previous else None
        entries, is_last = directory.part(self.source, self.path, after)
        if self.added:
            entries = self._with_added(entries, after, is_last)
        block = rows.add(entries, is_last, previous)
        if self._may_keep and rows.size:
            kept_rows.keep(self._key, rows)
        return block

    def _with_added(
        self, entries: list[DirectoryEntry], after: str | None, is_last: bool
    ) -> list[DirectoryEntry]:
        names = {
            name: DirectoryEntry(name)
            for name in self.added
            if (after is None or name > after) and (is_last or name <= entries[-1].name)
        }
        names |= {entry.name: entry for entry in entries}
        return [names[name] for name in sorted(names)]


class ListingPage:
    """ASGI application that sends the page of a level: 200, and 304 or 412 where it is complete.

    `rows` has the first of its blocks at least; the others are read as the client takes them.
    """

    def __init__(self, path: str, level: Level, rows: Rows, usage: str = "") -> None:
        """`path` is the decoded one of the URL; `usage` as `html_listing` takes it."""
        self.head, self.tail = (part.encode() for part in frame(path, usage=usage))
        self.level = level
        self.rows = rows
        self.executor = current_executor()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = text_headers(scope)
        text_class = GzipText if "Content-Encoding" in headers else PlainText
        text = text_class(self.head, self.tail)
        if self.rows.is_complete:
            headers["ETag"] = weak_etag((self.head, self.rows.digest, self.tail))
            validators = Validators(headers["ETag"], None)
            status = evaluate(scope["method"], Headers(scope=scope), validators)
            if status is not None:
                headers.pop("Content-Encoding", None)
                return await Response(None, status, headers)(scope, receive, send)
            length = text.length(self.rows.size, self.rows.deflated)
            headers["Content-Length"] = str(length)
        headers["Content-Type"] = "text/html; charset=utf-8"
        start = {"type": "http.response.start", "status": 200, "headers": _raw(headers)}
        await send(start)
        await until_disconnect(receive, partial(self._send_body, text, send))

    async def _send_body(self, text: PlainText, send: Send) -> None:
        await send({"type": "http.response.body", "body": text.head, "more_body": True})
        index, block = 0, None
        while block is None or not block.is_last:
            block = await self._block(index, block)
            index += 1
            body = text.block(block.html)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await checkpoint()
        await send({"type": "http.response.body", "body": text.end()})

    async def _block(self, index: int, previous: Block | None) -> Block:
        if index < len(self.rows.blocks):
            return self.rows.blocks[index]
        assert self.executor is not None
        # One part at a time in a process: files do not wait for database threads, and what another
        # client is reading is not read twice.
        async with _one_at_a_time():
            return await self.executor.run(self.level.block, self.rows, index, previous)


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def _one_at_a_time() -> CapacityLimiter:
    try:
        return _reading.get()
    except LookupError:
        limiter = CapacityLimiter(1)
        _reading.set(limiter)
        return limiter
