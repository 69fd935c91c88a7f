"""Stale responses while the database does not answer (stale-if-error, RFC 5861 section 4).

Entries are sent that were valid when the database went away, for a bounded time. They are dropped
when a change is received, as always, and when the listener has a new connection, since it may have
missed some.
"""

import logging
import time

from pulpcore.content_star.cache.entries import CacheEntry, CacheKey
from pulpcore.content_star.cache.store import MAX_STALENESS, ResponseCache
from pulpcore.content_star.database.availability import availability

log = logging.getLogger(__name__)

# Seconds between the last confirmation and the last answer of the database: had it answered later,
# the process might have sent newer content since.
MAX_GAP = 2 * MAX_STALENESS


class StaleResponses:
    """Entries of a response cache that may be sent although nothing confirms them."""

    def __init__(self, cache: ResponseCache, max_seconds: float) -> None:
        """`max_seconds` since the last confirmation; 0 for none at all."""
        self.cache = cache
        self.max_seconds = max_seconds
        self.count = 0
        """Responses in the current outage."""
        self._outage: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since entries were last valid."""
        return time.monotonic() - self.cache.confirmed - MAX_STALENESS

    @property
    def allowed(self) -> bool:
        """Whether stale entries may be sent now."""
        return (
            availability.down_since is not None
            and self.seconds < self.max_seconds
            and availability.last_answer - self.cache.confirmed < MAX_GAP
        )

    def has(self, key: CacheKey) -> bool:
        """Return whether there is an entry of `key` that `get` might return."""
        return self.max_seconds > 0 and self.cache.get_unconfirmed(key) is not None

    def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the entry of `key` if it may be sent now, or None."""
        return self.cache.get_unconfirmed(key) if self.allowed else None

    def note(self) -> None:
        """Count a response, and log the first one of an outage."""
        self.count += 1
        if self._outage != availability.down_since:
            self._outage = availability.down_since
            log.warning(
                "Sending stale responses from the cache for up to %.0f s, until the database"
                " answers.",
                self.max_seconds,
            )
