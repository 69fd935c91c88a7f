"""Deadlines of database calls: a thread that ends those of the process that have passed theirs."""

import logging
import threading
import time
from typing import Protocol
from weakref import WeakSet

from django.db import OperationalError

log = logging.getLogger(__name__)

# Seconds between two checks.
INTERVAL = 0.25


class DatabaseTimeout(OperationalError):
    """The database did not answer before the deadline of a call."""


class Watched(Protocol):
    """Something with deadlines, such as a thread pool."""

    def check(self, now: float) -> None:
        """End what has passed its deadline; `now` is on the monotonic clock. Must not block."""


class Watchdog:
    """Thread that checks deadlines, while there is anything that has some."""

    def __init__(self) -> None:
        self._all: WeakSet[Watched] = WeakSet()
        self._lock = threading.Lock()
        self._is_running = False

    def add(self, watched: Watched) -> None:
        """Check `watched` from now on, as long as it exists.

        Raises RuntimeError if the thread cannot be started.
        """
        with self._lock:
            if not self._is_running:
                threading.Thread(target=self._run, name="deadlines-db", daemon=True).start()
                self._is_running = True
            self._all.add(watched)

    def remove(self, watched: Watched) -> None:
        """Check `watched` no longer."""
        with self._lock:
            self._all.discard(watched)

    def _run(self) -> None:
        while self._check_all():
            time.sleep(INTERVAL)

    def _check_all(self) -> bool:
        """Check once; return whether there is anything left to check."""
        with self._lock:
            all_watched = list(self._all)
            self._is_running = bool(all_watched)
        for watched in all_watched:
            try:
                watched.check(time.monotonic())
            except Exception:
                log.exception("Checking the deadlines of database calls failed.")
        return bool(all_watched)


watchdog = Watchdog()
"""Of the process, as Django's connections are."""
