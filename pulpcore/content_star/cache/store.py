"""What paths resolve to: distributions, and the answers below them.

All is in memory and bounded; what was used longest ago goes first, to the second. An entry names
the database rows that it was made from by their ids, with which a change invalidates it. Entries
are used only while the listener confirms (`confirm`) that it received every change until a moment
ago.

A slow request might keep what it read before a change that has been told while it was reading. The
`generation`, a number that grows with each change, is noted before the first read, and nothing is
kept when it is another one by then.
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

# Seconds for which it holds that all changes have been heard of. No request that starts later than
# this after a commit is answered from before it, in whatever process.
BOUND = 1.0

# Seconds to which it is known what was used longest ago: every request would wait for the lock.
ORDER = 1.0

STARTING = "starting"
TURNED_OFF = "turned off"

# Distributions that are kept at most: some 20 KiB each.
MAX_DISTRIBUTIONS = 2000

# Of `capacity`, the part of answers that there is nothing: paths that a client makes up take no
# place from files.
NOTHING_SHARE = 10

# Characters of a path at which it is kept that there is nothing. Longer ones are made up.
MAX_NOTHING_LENGTH = 1024


@dataclass(slots=True)
class CachedFile:
    """The bytes of a file in memory, which several answers may have: other URLs, other `Accept`."""

    data: bytes
    users: int = 0


@dataclass
class ResponseCache:
    """The plans of a process. May be used from any thread."""

    capacity: int
    """Answers that are kept at most; with 0 nothing is kept."""

    capacity_bytes: int
    """Bytes of files that are kept at most."""

    problem: str | None = STARTING
    """Why nothing is kept, for the log, probes and metrics; None while things are."""

    generation: int = 0
    size: int = 0
    """Bytes of files in memory."""
    _proved: float = float("-inf")
    _answers: OrderedDict[CacheKey, CacheEntry] = field(default_factory=OrderedDict)
    _nothing: OrderedDict[CacheKey, None] = field(default_factory=OrderedDict)
    """Keys of those of the answers that say that there is nothing, in the same order."""
    _files: dict[str, CachedFile] = field(default_factory=dict)
    """By sha256."""
    _places: OrderedDict[tuple[str, str], DistributionEntry] = field(default_factory=OrderedDict)
    _by_id: dict[UUID, set[CacheKey | tuple[str, str]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def confirm(self, moment: float) -> None:
        """Note that all that was committed until `moment`, on the monotonic clock, is known."""
        self._proved = moment

    @property
    def usable(self) -> bool:
        """Whether what is kept may be used, and something be kept."""
        return time.monotonic() - self._proved < BOUND

    def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the answer to requests with `key`, if it is known."""
        entry = self._answers.get(key)
        if entry is None:
            return None
        now = time.monotonic()
        if now - self._proved >= BOUND:
            return None
        if not entry.distribution_entry.alive or entry.expires < now:
            with self._lock:
                self._drop(key)
            return None
        if now - entry.moved >= ORDER:
            with self._lock:
                if key in self._answers:
                    self._answers.move_to_end(key)
                    if key in self._nothing:
                        self._nothing.move_to_end(key)
                    entry.moved = now
        return entry

    def find(self, content_path: ContentPath) -> DistributionEntry | None:
        """Return the plan of the distribution that `address` is below, if it is known."""
        if not self.usable:
            return None
        for prefix in reversed(prefixes(content_path.path)):
            resolved = (content_path.domain, prefix)
            distribution_entry = self._places.get(resolved)
            if distribution_entry is not None:
                with self._lock:
                    if resolved in self._places:
                        self._places.move_to_end(resolved)
                return None if distribution_entry.nested else distribution_entry
        return None

    def add_distribution(
        self, distribution_entry: DistributionEntry, generation: int
    ) -> DistributionEntry:
        """Keep a plan that was begun in `generation`, unless things have changed since.

        Return the one that is kept: it may be another one that knows as much.
        """
        distribution = distribution_entry.distribution
        resolved = (distribution.pulp_domain.name, distribution.base_path)
        with self._lock:
            if not self._may_keep(generation):
                return distribution_entry
            known = self._places.get(resolved)
            if known and (known.source or not distribution_entry.source):
                return known
            self._drop_place(resolved)
            self._places[resolved] = distribution_entry
            distribution_entry.alive = True
            self._index(resolved, distribution_entry.ids())
            while len(self._places) > min(MAX_DISTRIBUTIONS, self.capacity):
                self._drop_place(next(iter(self._places)))
        return distribution_entry

    def keep(self, key: CacheKey, entry: CacheEntry, generation: int) -> None:
        """Keep an answer that was begun in `generation`, unless things have changed since."""
        with self._lock:
            if not self._may_keep(generation) or not entry.distribution_entry.alive:
                return
            is_nothing = isinstance(entry.answer, NotFoundEntry)
            if is_nothing and len(key.path) > MAX_NOTHING_LENGTH:
                return
            self._drop(key)
            self._answers[key] = entry
            self._index(key, entry.ids)
            if is_nothing:
                self._nothing[key] = None
            while len(self._nothing) > self.capacity // NOTHING_SHARE:
                self._drop(next(iter(self._nothing)))
            while len(self._answers) > self.capacity:
                self._drop(next(iter(self._answers)))

    def share(self, key: CacheKey, entry: CacheEntry, sha256: str, data: bytes) -> bytes | None:
        """Return the bytes that an answer may hold of a file, one copy for all; None if it must
        not."""
        with self._lock:
            if self._answers.get(key) is not entry or entry.file or len(data) > self.capacity_bytes:
                return None
            file = self._files.get(sha256)
            if file is None:
                file = self._files[sha256] = CachedFile(data)
                self.size += len(data)
            file.users += 1
            entry.file = sha256
            while self.size > self.capacity_bytes:
                self._drop(next(iter(self._answers)))
            return file.data if self._answers.get(key) is entry else None

    def invalidate(self, ids: Iterable[UUID]) -> None:
        """Drop what was made from the rows with `ids`, which have been changed."""
        with self._lock:
            self.generation += 1
            for each in ids:
                for key in self._by_id.pop(each, ()):
                    if isinstance(key, CacheKey):
                        self._drop(key)
                    else:
                        self._drop_place(key)

    def invalidate_all(self) -> None:
        """Drop everything: anything may have changed."""
        with self._lock:
            self.generation += 1
            for distribution_entry in self._places.values():
                distribution_entry.alive = False
            for each in (self._places, self._answers, self._nothing, self._files, self._by_id):
                each.clear()
            self.size = 0

    def invalidate_above(self, domain: UUID, base_path: str) -> None:
        """Drop the distributions whose base path `base_path` goes on from."""
        above = set(prefixes(base_path))
        with self._lock:
            self.generation += 1
            for resolved, distribution_entry in list(self._places.items()):
                if (
                    resolved[1] in above
                    and distribution_entry.distribution.pulp_domain_id == domain
                ):
                    self._drop_place(resolved)

    def set_problem(self, problem: str | None) -> None:
        """Note why plans cannot be used, or that they can; logged when it is news."""
        if problem == self.problem:
            return
        self.problem = problem
        if problem is None:
            log.info("Content: what paths resolve to is kept in memory.")
        else:
            log.warning("Content: every request is looked up in the database: %s.", problem)

    def _may_keep(self, generation: int) -> bool:
        return self.capacity > 0 and self.generation == generation and self.usable

    def _index(self, key: CacheKey | tuple[str, str], ids: Iterable[UUID | None]) -> None:
        for each in ids:
            if each is not None:
                self._by_id.setdefault(each, set()).add(key)

    def _unindex(self, key: CacheKey | tuple[str, str], ids: Iterable[UUID | None]) -> None:
        for each in ids:
            if each is not None and (keys := self._by_id.get(each)) is not None:
                keys.discard(key)
                if not keys:
                    del self._by_id[each]

    def _drop(self, key: CacheKey) -> None:
        if (entry := self._answers.pop(key, None)) is None:
            return
        self._nothing.pop(key, None)
        self._unindex(key, entry.ids)
        if entry.file and (file := self._files.get(entry.file)) is not None:
            file.users -= 1
            if not file.users:
                del self._files[entry.file]
                self.size -= len(file.data)

    def _drop_place(self, resolved: tuple[str, str]) -> None:
        if (distribution_entry := self._places.pop(resolved, None)) is not None:
            distribution_entry.alive = False
            self._unindex(resolved, distribution_entry.ids())
