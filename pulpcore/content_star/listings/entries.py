"""Entries of directory listings, and a cache of those that take long to read."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

# Seconds for which an entry without a size is cached, although the file may have been saved.
UNSIZED_SECONDS = 60


class DirectoryEntry(NamedTuple):
    """An entry of a directory listing."""

    name: str
    """Name, which ends in a slash if the entry is a directory."""

    modified: datetime | None = None
    """Time at which the newest content at or below the entry was added to the repository."""

    size: int | None = None
    """Bytes; None for directories and for remote files of unknown size."""

    @property
    def line(self) -> str:
        """The name as a line of text, percent-encoded if it has characters that are not shown."""
        return self.name if self.name.isprintable() else quote(self.name)

    @property
    def may_change(self) -> bool:
        """Whether this is a file of unknown size, which is known once the file is saved."""
        return self.size is None and not self.name.endswith("/")


class EntryCache:
    """LRU cache of at most `capacity` entries of directories of immutable sources."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._levels: OrderedDict[object, tuple[float, dict[str, DirectoryEntry]]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def get(self, key: object, names: Iterable[str] | None = None) -> list[DirectoryEntry] | None:
        """Return the cached entries of `names`, or of all; None if one of them is not cached."""
        with self._lock:
            expires, known = self._levels.get(key, (0.0, {}))
            if expires < time.monotonic():
                return None
            self._levels.move_to_end(key)
            entries = [known.get(name) for name in (known if names is None else names)]
        return None if None in entries else entries  # type: ignore[return-value]

    def add(self, key: object, entries: list[DirectoryEntry]) -> None:
        """Cache `entries`, for `UNSIZED_SECONDS` if one has no size."""
        may_change = any(entry.may_change for entry in entries)
        until = time.monotonic() + UNSIZED_SECONDS if may_change else float("inf")
        with self._lock:
            expires, known = self._levels.pop(key, (float("inf"), {}))
            self._count -= len(known)
            if expires < time.monotonic():
                expires, known = float("inf"), {}
            known.update((entry.name, entry) for entry in entries)
            self._levels[key] = min(expires, until), known
            self._count += len(known)
            while self._count > self._capacity:
                _, (_, evicted) = self._levels.popitem(last=False)
                self._count -= len(evicted)
