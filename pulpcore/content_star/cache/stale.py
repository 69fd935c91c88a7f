"""Stale responses while the database does not answer (stale-if-error, RFC 5861 section 4).

Entries are sent that were valid when the database went away, for a bounded time. They are dropped
when a change is received, as always, and when the listener has a new connection, since it may have
missed some.
"""

import logging
import time

from cachetools import LRUCache
from starlette.requests import Request

from pulpcore.content_star.cache.entries import CacheEntry, CacheKey
from pulpcore.content_star.cache.store import MAX_STALENESS, ResponseCache
from pulpcore.content_star.database.availability import availability
from pulpcore.content_star.listings.negotiation import preferred_form
from pulpcore.content_star.listings.site import origin
from pulpcore.content_star.responses.text import accepts_gzip

log = logging.getLogger(__name__)

# Seconds between the last confirmation and the last answer of the database: had it answered later,
# the process might have sent newer content since.
MAX_GAP = 2 * MAX_STALENESS

# Listings that are kept, of `policy.MAX_LISTING` bytes at most.
MAX_LISTINGS = 128

# Bytes of the longest query of a listing that is kept.
MAX_QUERY = 1024

ListingKey = tuple[CacheKey, str, str, str, bytes, bool]
"""Key of the cache; origin and prefix, which links in a listing may have; form and query;
whether the client accepts gzip."""


class StaleResponses:
    """Entries of a response cache that may be sent although nothing confirms them."""

    def __init__(self, cache: ResponseCache, max_seconds: float) -> None:
        """`max_seconds` since the last confirmation; 0 for none at all."""
        self.cache = cache
        self.max_seconds = max_seconds
        self.count = 0
        """Responses in the current outage."""
        self._outage: float | None = None
        self._listings: LRUCache[ListingKey, CacheEntry] = LRUCache(MAX_LISTINGS)

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

    def has(self, request: Request, key: CacheKey) -> bool:
        """Return whether there is an entry for the request that `get` might return."""
        return self.max_seconds > 0 and self._find(request, key) is not None

    def get(self, request: Request, key: CacheKey) -> CacheEntry | None:
        """Return the entry for the request if it may be sent now, or None."""
        return self._find(request, key) if self.allowed else None

    def keep_listing(self, request: Request, key: CacheKey, entry: CacheEntry) -> None:
        """Cache a listing for outages: the response cache has none, its rows are cached."""
        if self.max_seconds > 0 and len(request.scope["query_string"]) <= MAX_QUERY:
            self._listings[_listing_key(request, key)] = entry

    def _find(self, request: Request, key: CacheKey) -> CacheEntry | None:
        return self.cache.get_unconfirmed(key) or self._find_listing(request, key)

    def _find_listing(self, request: Request, key: CacheKey) -> CacheEntry | None:
        if not key.path.endswith("/"):
            return None
        entry = self._listings.get(_listing_key(request, key))
        return entry if entry is not None and entry.distribution_entry.is_cached else None

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


def _listing_key(request: Request, key: CacheKey) -> ListingKey:
    scope = request.scope
    return (
        key,
        origin(request),
        scope.get("root_path", ""),
        preferred_form(request),
        scope["query_string"],
        accepts_gzip(scope),
    )
