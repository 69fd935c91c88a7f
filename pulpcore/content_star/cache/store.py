"""The response cache: distributions, and responses below them, in memory.

The cache is bounded and evicts the least recently used entry. Each entry names the database rows
that it was made from by their primary keys; a change of one of them invalidates the entry. Entries
are used only while the listener confirms (`confirm`) that it received every change committed up to
`MAX_STALENESS` seconds ago.

A slow request could add an entry that it read before a change which was received while it was
reading. So requests note the `generation`, a number that grows with each change, before their
first read, and `add` drops an entry of another generation.

While the database does not answer, entries may be sent without a confirmation: see `stale.py`.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from pulpcore.content_star.cache.entries import (
    CacheEntry,
    CacheKey,
    DistributionEntry,
    NotFoundEntry,
)
from pulpcore.content_star.resolve.paths import ContentPath, prefixes

log = logging.getLogger(__name__)

# Seconds for which entries are valid after a confirmation. A request that starts later than this
# after a commit gets no response from before it, in any process.
MAX_STALENESS = 1.0

# Precision of the LRU order, in seconds: moving an entry on every hit would make requests wait for
# the lock.
LRU_PRECISION = 1.0

STARTING = "starting"
TURNED_OFF = "turned off"

# Maximum number of distribution entries, of some 20 KiB each.
MAX_DISTRIBUTIONS = 2000

# Not-found entries get one entry in this many of `capacity`, so that paths a client makes up evict
# no files.
NOT_FOUND_SHARE = 10

# Maximum length in characters of the path of a not-found entry: longer ones are made up.
MAX_NOT_FOUND_PATH = 1024

DistributionKey = tuple[str, str]
"""Name of the domain, and base path."""


@dataclass(slots=True)
class CachedFile:
    """The bytes of an in-memory file, shared by entries of other URLs or another `Accept`."""

    data: bytes
    users: int = 0
    """Number of entries that share them."""


@dataclass
class ResponseCache:
    """The response cache of an application. Thread-safe.

    Not one of `cachetools`, whose `LRUCache` takes 2.8 us to get an entry, a `TTLCache` 9 us; a
    dictionary takes 0.2 us, which hits on the fast path are made of. Those would also need the lock
    for each hit.
    """

    capacity: int
    """Maximum number of response entries; 0 turns the cache off."""

    capacity_bytes: int
    """Maximum size of the in-memory files."""

    problem: str | None = STARTING
    """Why the cache is not used, for the log, probes and metrics; None while it is."""

    generation: int = 0
    size: int = 0
    """Bytes of in-memory files."""
    _confirmed: float = float("-inf")
    _entries: OrderedDict[CacheKey, CacheEntry] = field(default_factory=OrderedDict)
    _not_found: OrderedDict[CacheKey, None] = field(default_factory=OrderedDict)
    """Keys of the not-found entries, in the same order."""
    _files: dict[str, CachedFile] = field(default_factory=dict)
    """By SHA-256."""
    _distributions: OrderedDict[DistributionKey, DistributionEntry] = field(
        default_factory=OrderedDict
    )
    _by_id: dict[UUID, set[CacheKey | DistributionKey]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def confirm(self, moment: float) -> None:
        """Record that every change committed until `moment`, on the monotonic clock, is known."""
        self._confirmed = moment

    @property
    def confirmed(self) -> float:
        """The moment of the last confirmation."""
        return self._confirmed

    @property
    def usable(self) -> bool:
        """Whether entries may be used and added."""
        return time.monotonic() - self._confirmed < MAX_STALENESS

    def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the valid entry of `key`, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = time.monotonic()
        if now - self._confirmed >= MAX_STALENESS:
            return None
        if not entry.distribution_entry.is_cached or entry.expires < now:
            with self._lock:
                self._drop(key)
            return None
        if now - entry.last_moved >= LRU_PRECISION:
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
                    if key in self._not_found:
                        self._not_found.move_to_end(key)
                    entry.last_moved = now
        return entry

    def get_unconfirmed(self, key: CacheKey) -> CacheEntry | None:
        """Return the entry of `key` if no change of it is known, or None: see `cache/stale.py`."""
        entry = self._entries.get(key)
        if entry is None or not entry.distribution_entry.is_cached:
            return None
        return entry if entry.expires > time.monotonic() else None

    def find(self, content_path: ContentPath) -> DistributionEntry | None:
        """Return the entry of the distribution that `content_path` is in, or None.

        None as well if the distribution's base path is nested: the database has to decide.
        """
        if not self.usable:
            return None
        for prefix in reversed(prefixes(content_path.path)):
            key = (content_path.domain, prefix)
            distribution_entry = self._distributions.get(key)
            if distribution_entry is not None:
                with self._lock:
                    if key in self._distributions:
                        self._distributions.move_to_end(key)
                return None if distribution_entry.has_nested else distribution_entry
        return None

    def add_distribution(
        self, distribution_entry: DistributionEntry, generation: int
    ) -> DistributionEntry:
        """Add the entry of a distribution, unless `generation` is over, and return the cached one.

        That is another one if the cache has one that knows as much.
        """
        distribution = distribution_entry.distribution
        key = (distribution.pulp_domain.name, distribution.base_path)
        with self._lock:
            if not self._may_add(generation):
                return distribution_entry
            cached = self._distributions.get(key)
            if cached and (cached.source or not distribution_entry.source):
                return cached
            self._drop_distribution(key)
            self._distributions[key] = distribution_entry
            distribution_entry.is_cached = True
            self._index(key, distribution_entry.ids())
            while len(self._distributions) > min(MAX_DISTRIBUTIONS, self.capacity):
                self._drop_distribution(next(iter(self._distributions)))
        return distribution_entry

    def add(self, key: CacheKey, entry: CacheEntry, generation: int) -> None:
        """Add an entry, unless `generation` is over, and evict others to stay within `capacity`."""
        with self._lock:
            if not self._may_add(generation) or not entry.distribution_entry.is_cached:
                return
            is_not_found = isinstance(entry.result, NotFoundEntry)
            if is_not_found and len(key.path) > MAX_NOT_FOUND_PATH:
                return
            self._drop(key)
            self._entries[key] = entry
            self._index(key, entry.ids)
            if is_not_found:
                self._not_found[key] = None
            while len(self._not_found) > self.capacity // NOT_FOUND_SHARE:
                self._drop(next(iter(self._not_found)))
            while len(self._entries) > self.capacity:
                self._drop(next(iter(self._entries)))

    def share(self, key: CacheKey, entry: CacheEntry, sha256: str, data: bytes) -> bytes | None:
        """Add the bytes of an entry's file, evicting others to stay within `capacity_bytes`.

        Returns the one copy that all entries of the file share; None if the entry must not hold
        the bytes: it is not cached, has them already, or the file is too large.
        """
        with self._lock:
            is_too_large = len(data) > self.capacity_bytes
            if self._entries.get(key) is not entry or entry.file or is_too_large:
                return None
            file = self._files.get(sha256)
            if file is None:
                file = self._files[sha256] = CachedFile(data)
                self.size += len(data)
            file.users += 1
            entry.file = sha256
            while self.size > self.capacity_bytes:
                self._drop(next(iter(self._entries)))
            return file.data if self._entries.get(key) is entry else None

    def invalidate(self, ids: Iterable[UUID]) -> None:
        """Drop the entries made from the rows with `ids`, which have changed."""
        with self._lock:
            self.generation += 1
            for row_id in ids:
                for key in self._by_id.pop(row_id, ()):
                    if isinstance(key, CacheKey):
                        self._drop(key)
                    else:
                        self._drop_distribution(key)

    def invalidate_all(self) -> None:
        """Drop all entries."""
        with self._lock:
            self.generation += 1
            for distribution_entry in self._distributions.values():
                distribution_entry.is_cached = False
            for container in (
                self._distributions,
                self._entries,
                self._not_found,
                self._files,
                self._by_id,
            ):
                container.clear()
            self.size = 0

    def invalidate_above(self, domain: UUID, base_path: str) -> None:
        """Drop the distributions whose base path is a prefix of `base_path`, and itself."""
        above = set(prefixes(base_path))
        with self._lock:
            self.generation += 1
            for key, distribution_entry in list(self._distributions.items()):
                if key[1] in above and distribution_entry.distribution.pulp_domain_id == domain:
                    self._drop_distribution(key)

    def set_problem(self, problem: str | None) -> None:
        """Set why the cache is not used, or None; log it if it has changed."""
        if problem == self.problem:
            return
        self.problem = problem
        if problem is None:
            log.info("Response cache enabled.")
        else:
            log.warning(
                "Response cache disabled, every request is looked up in the database: %s.", problem
            )

    def _may_add(self, generation: int) -> bool:
        return self.capacity > 0 and self.generation == generation and self.usable

    def _index(self, key: CacheKey | DistributionKey, ids: Iterable[UUID | None]) -> None:
        for row_id in ids:
            if row_id is not None:
                self._by_id.setdefault(row_id, set()).add(key)

    def _unindex(self, key: CacheKey | DistributionKey, ids: Iterable[UUID | None]) -> None:
        for row_id in ids:
            if row_id is not None and (keys := self._by_id.get(row_id)) is not None:
                keys.discard(key)
                if not keys:
                    del self._by_id[row_id]

    def _drop(self, key: CacheKey) -> None:
        if (entry := self._entries.pop(key, None)) is None:
            return
        self._not_found.pop(key, None)
        self._unindex(key, entry.ids)
        if entry.file and (file := self._files.get(entry.file)) is not None:
            file.users -= 1
            if not file.users:
                del self._files[entry.file]
                self.size -= len(file.data)

    def _drop_distribution(self, key: DistributionKey) -> None:
        if (distribution_entry := self._distributions.pop(key, None)) is not None:
            distribution_entry.is_cached = False
            self._unindex(key, distribution_entry.ids())
