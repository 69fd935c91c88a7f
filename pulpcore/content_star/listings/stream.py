"""Streamed HTML listings of large directories, with a cache of their compressed rows.

A publication or a complete repository version is immutable, so rows are cached by its id and need
no invalidation: its successor has another id, and requests for a deleted one do not get here.

Rows are cached deflated, as gzip responses send them, at some 20 bytes an entry. A large directory
is read while it is sent, one part at a time, and the next one only when the client has received
those before (backpressure): a slow client occupies neither a thread nor a database connection, and
does not delay other listings. Parts are shared by all clients.
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
from pulpcore.content_star.listings.entries import UNSIZED_SECONDS, DirectoryEntry
from pulpcore.content_star.listings.html import frame
from pulpcore.content_star.listings.html import rows as rows_of
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.responses.conditional import Validators, evaluate
from pulpcore.content_star.responses.disconnect import until_disconnect
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.content_star.responses.text import (
    GzipText,
    PlainText,
    deflate,
    text_headers,
    weak_etag,
)

# Bytes of compressed rows that a process caches, least recently used first out: about a million
# entries.
MAX_CACHE_BYTES = 24 * 1024 * 1024

# Bytes of compressed rows of one directory that are cached.
MAX_DIRECTORY_BYTES = MAX_CACHE_BYTES // 4

_read_limiter: RunVar[CapacityLimiter] = RunVar("content_star_listing")

Key = tuple[UUID | None, UUID, str, tuple[str, ...]]


class Block(NamedTuple):
    """Deflated HTML rows of consecutive entries."""

    html: bytes
    last_name: str
    is_last: bool


class Rows:
    """The blocks of a directory that have been read: the first ones, or all."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.size = 0
        """Bytes of the HTML, uncompressed."""
        self.deflated = 0
        """Bytes of the deflated blocks."""
        self.expires = float("inf")
        """Expiry on the monotonic clock, for files whose size may be known later."""
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def cost(self) -> int:
        """Approximate bytes of memory."""
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
        """Return the block of `entries`; append it if it is the next one and within the limit.

        Not thread-safe: called by one thread at a time.
        """
        html = rows_of(entries).encode()
        last_name = entries[-1].name if entries else previous.last_name if previous else ""
        block = Block(deflate(html), last_name, is_last)
        last = self.blocks[-1] if self.blocks else None
        if previous is last and self.cost + len(block.html) <= MAX_DIRECTORY_BYTES:
            if any(entry.may_change for entry in entries):
                self.expires = min(self.expires, time.monotonic() + UNSIZED_SECONDS)
            self.size += len(html)
            self.deflated += len(block.html)
            self._digest.update(html)
            self.blocks.append(block)
        return block


class RowCache:
    """LRU cache of the rows of directories, of `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[Key, tuple[Rows, int]] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Rows | None:
        """Return the cached rows of `key` and mark them as used, or None."""
        with self._lock:
            rows, _ = self._rows.get(key, (None, 0))
            if rows is None or rows.expires < time.monotonic():
                return None
            self._rows.move_to_end(key)
            return rows

    def put(self, key: Key, rows: Rows) -> None:
        """Cache `rows`, or update their cost if they have grown."""
        with self._lock:
            _, cost = self._rows.pop(key, (None, 0))
            self._rows[key] = rows, rows.cost
            self._cost += rows.cost - cost
            while self._cost > self._capacity:
                _, (_, cost) = self._rows.popitem(last=False)
                self._cost -= cost


row_cache = RowCache(MAX_CACHE_BYTES)


class ListedDirectory:
    """A directory of `source` to be listed, with the sorted names that a plugin adds to it."""

    def __init__(self, source: ContentSource, path: str, added: Sequence[str]) -> None:
        """`path` is empty for the root or ends in a slash."""
        self.source = source
        self.path = path
        self.added = added
        self._key: Key = (*directory.key_of(source, path), tuple(added))
        self._is_cacheable = directory.is_immutable(source)

    def cached_rows(self) -> Rows | None:
        """Return the cached rows, or None."""
        return row_cache.get(self._key) if self._is_cacheable else None

    def read(self) -> Rows | None:
        """Return the cached rows, or read the first block; None if it is empty. Blocks."""
        rows = self.cached_rows()
        if rows is None:
            rows = Rows()
            self.block(rows, 0, None)
        return rows if rows.size else None

    def block(self, rows: Rows, index: int, previous: Block | None) -> Block:
        """Return the block that follows `previous`, from `rows` or the database. Blocks."""
        if index < len(rows.blocks):
            return rows.blocks[index]
        entries, is_last = self.entries(previous.last_name if previous else None)
        block = rows.add(entries, is_last, previous)
        if self._is_cacheable and rows.size:
            row_cache.put(self._key, rows)
        return block

    def entries(self, after: str | None) -> tuple[list[DirectoryEntry], bool]:
        """Return entries after the name `after`, and whether they are the last. Blocks."""
        entries, is_last = directory.read_part(self.source, self.path, after)
        return (self._with_added(entries, after, is_last) if self.added else entries), is_last

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
    """ASGI application that streams an HTML listing: 200, and 304 or 412 if all rows are cached.

    `rows` has at least the first block; others are read as the client receives them.
    """

    def __init__(self, path: str, level: ListedDirectory, rows: Rows, usage: str = "") -> None:
        """`path` is the decoded path of the URL; `usage` as in `html_listing`."""
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
        while True:
            block = await self._block(index, block)
            index += 1
            if block.is_last:
                break
            body = text.block(block.html)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await checkpoint()
        # Without a pause in between: a listing of one part is sent whole in one step of the loop.
        body = text.block(block.html) + text.end()
        await send({"type": "http.response.body", "body": body})

    async def _block(self, index: int, previous: Block | None) -> Block:
        if index < len(self.rows.blocks):
            return self.rows.blocks[index]
        assert self.executor is not None
        # One part at a time, so that a thread is left for other directories, and a part is not
        # read twice for two clients.
        async with _limiter():
            return await self.executor.run(self.level.block, self.rows, index, previous)


class NamesPage:
    """ASGI application that streams the names of a directory as plain text, one a line."""

    def __init__(self, level: ListedDirectory, first: tuple[list[DirectoryEntry], bool]) -> None:
        self.level = level
        self.first = first
        self.executor = current_executor()

    @property
    def is_complete(self) -> bool:
        """Whether all names have been read."""
        return self.first[1]

    @property
    def size(self) -> int:
        """Characters of the names that have been read."""
        return sum(len(entry.name) + 1 for entry in self.first[0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(SECURITY_HEADERS) | {"Content-Type": "text/plain; charset=utf-8"}
        start = {"type": "http.response.start", "status": 200, "headers": _raw(headers)}
        await send(start)
        await until_disconnect(receive, partial(self._send_body, send))

    async def _send_body(self, send: Send) -> None:
        entries, is_last = self.first
        while True:
            body = "".join(f"{entry.line}\n" for entry in entries).encode()
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
            if is_last:
                return
            assert self.executor is not None
            async with _limiter():
                entries, is_last = await self.executor.run(self.level.entries, entries[-1].name)


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def _limiter() -> CapacityLimiter:
    try:
        return _read_limiter.get()
    except LookupError:
        limiter = CapacityLimiter(1)
        _read_limiter.set(limiter)
        return limiter
