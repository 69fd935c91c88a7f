"""Cache of metadata from remotes, revalidated before reuse (RFC 9111).

Package indexes and other metadata cannot be saved, since they change at any time, and every client
requests them (pulpcore issue 5144).
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Mapping

from multidict import CIMultiDict

from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.errors import RemoteBroke, RemoteUnavailable
from pulpcore.content_star.remote.pull_through.models import PullThroughRequest
from pulpcore.content_star.responses.headers import parse_http_date
from pulpcore.content_star.responses.source import StoreUnavailable

# Entries per process: each has an open file.
MAX_ENTRIES = 128

# Largest entry: one part in MAX_SHARE of CONTENT_STAR_METADATA_SIZE.
MAX_SHARE = 4

# Seconds since the last validation for which a stale entry is used while the remote fails.
STALE_IF_ERROR = 600

# Seconds for which a failed remote is not requested again, if there is an entry to use.
COOLDOWN = 5

# Directives that forbid the use of stale responses in shared caches (RFC 9111 section 5.2.2).
_NEVER_STALE = frozenset({"no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"})

# Headers that a 304 does not update, since they describe the cached body.
_BODY_HEADERS = ("ETag", "Content-Length", "Content-Encoding", "Content-Range", "Transfer-Encoding")

# Possessive quantifiers: matching takes linear time for any value.
_DIRECTIVE = re.compile(
    r"\s*+(?P<name>[^\s=,]++)\s*+"
    r'(?:=\s*+(?:"(?P<quoted>[^"]*+)"|(?P<token>[^\s",]*+))\s*+)?(?:,|$)'
)


class MetadataEntry:
    """A cached response of a remote.

    Its body is in the unnamed file of a download, which is open while the download is retained.
    """

    def __init__(
        self, download: Download, size: int, ttl: float, stale_if_error: float = STALE_IF_ERROR
    ) -> None:
        """`ttl` and `stale_if_error` are in seconds, `size` is in bytes."""
        self.download = download
        self.size = size
        self._ttl = ttl
        self._stale_if_error = stale_if_error
        self._cooldown_until = 0.0
        self._update(CIMultiDict(download.headers))

    def _update(self, headers: CIMultiDict[str]) -> None:
        self.headers = headers
        self._directives = directives(headers)
        self._confirmed_at = time.monotonic()

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """Headers of a conditional request for revalidation (RFC 9110 section 13.1)."""
        validators = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
        return tuple(
            (condition, self.headers[name])
            for condition, name in validators.items()
            if name in self.headers
        )

    @property
    def is_fresh(self) -> bool:
        """Whether it may be used without revalidation (RFC 9111 section 4.2).

        Bounded by CONTENT_STAR_METADATA_TTL. Also true during the cooldown after a failure of the
        remote.
        """
        if time.monotonic() < self._cooldown_until and self.may_be_stale:
            return True
        if "no-cache" in self._directives:
            return False
        lifetime = self._lifetime
        return self._age < (self._ttl if lifetime is None else min(self._ttl, lifetime))

    @property
    def _lifetime(self) -> float | None:
        """Freshness lifetime in seconds from receipt (RFC 9111 section 4.2.1), or None if
        unspecified.
        """
        argument = self._directives.get("s-maxage") or self._directives.get("max-age", "")
        lifetime = _seconds(argument)
        if lifetime is not None:
            # Caches between the remote and Pulp have added `Age`.
            return lifetime - (_seconds(self.headers.get("Age", "")) or 0)
        if "Expires" not in self.headers:
            return None
        expires = parse_http_date(self.headers["Expires"])
        date = parse_http_date(self.headers.get("Date", ""))
        # An invalid date, such as 0, has expired.
        return (expires - date).total_seconds() if expires and date else 0

    @property
    def may_be_stale(self) -> bool:
        """Whether it may be used stale when the remote fails (RFC 9111 section 4.2.4)."""
        if not self._directives.keys().isdisjoint(_NEVER_STALE):
            return False
        return self._age < self._stale_if_error

    @property
    def _age(self) -> float:
        return time.monotonic() - self._confirmed_at

    def confirm(self, response_headers: Mapping[str, str]) -> None:
        """Freshen the entry with the headers of a 304 (RFC 9111 sections 3.2 and 4.3.4)."""
        headers = self.headers.copy()
        headers.popall("Age", None)  # age of the previous response
        new = CIMultiDict(response_headers)
        for name in _BODY_HEADERS:
            new.popall(name, None)
        headers.update(new)
        self.download.headers = headers
        self._update(headers)

    def back_off(self) -> None:
        """Do not request the failed remote again for COOLDOWN seconds."""
        self._cooldown_until = time.monotonic() + COOLDOWN


class MetadataCache:
    """LRU cache of metadata responses, by fetch request.

    Limited by number (open files) and by size, and releases the downloads that it evicts, for which
    `cachetools` has no hook.
    """

    def __init__(self, ttl: float, capacity: int) -> None:
        """`ttl` is in seconds, as CONTENT_STAR_METADATA_TTL; `capacity` is in bytes."""
        self._ttl = ttl
        self._capacity = capacity
        self._max_entry_size = capacity // MAX_SHARE
        self._entries: OrderedDict[PullThroughRequest, MetadataEntry] = OrderedDict()
        self._finishing: dict[Download, asyncio.Task[None]] = {}

    def get(self, request: PullThroughRequest) -> MetadataEntry | None:
        """Return the entry for `request`, fresh or stale, or None."""
        entry = self._entries.get(request)
        if entry is not None:
            self._entries.move_to_end(request)
        return entry

    def put(self, request: PullThroughRequest, download: Download) -> None:
        """Store a complete download, if its headers and the size limits allow that."""
        current = self._entries.get(request)
        if current is not None and current.download is download:
            return
        assert download.size is not None
        self.remove(request)
        if download.size > self._max_entry_size or not is_cacheable(download.headers):
            return
        download.retain()
        self._entries[request] = MetadataEntry(download, download.size, self._ttl)
        while len(self._entries) > MAX_ENTRIES or self._size > self._capacity:
            self.remove(next(iter(self._entries)))

    def confirm(
        self, request: PullThroughRequest, entry: MetadataEntry, response_headers: Mapping[str, str]
    ) -> None:
        """Freshen an entry after a 304 with the given headers.

        Removes it if the headers forbid storing it from now on.
        """
        entry.confirm(response_headers)
        if self._entries.get(request) is entry and not is_cacheable(entry.headers):
            self.remove(request)

    def finish_in_background(self, download: Download) -> None:
        """Let a cacheable download finish although its last client may disconnect.

        Otherwise clients with a copy of their own, which get 304 and read no body, would start it
        again and again.
        """
        if download.complete or download in self._finishing:
            return
        if not is_cacheable(download.headers) or (download.size or 0) > self._max_entry_size:
            return
        download.retain()
        task = self._finishing[download] = asyncio.create_task(
            _read_to_end(download, self._max_entry_size)
        )
        task.add_done_callback(lambda _: self._finishing.pop(download))

    def remove(self, request: PullThroughRequest) -> None:
        """Remove the entry for `request`, if any."""
        entry = self._entries.pop(request, None)
        if entry is not None:
            entry.download.release()

    @property
    def _size(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    async def close(self) -> None:
        """Cancel background reads and remove all entries."""
        finishing = list(self._finishing.values())
        for task in finishing:
            task.cancel()
        await asyncio.gather(*finishing, return_exceptions=True)
        for request in list(self._entries):
            self.remove(request)


async def _read_to_end(download: Download, max_size: int) -> None:
    offset = 0
    try:
        while not download.complete and offset <= max_size:
            offset = await download.wait_for_more(offset)
    except (RemoteBroke, RemoteUnavailable, StoreUnavailable):
        pass  # clients that read it get the error
    finally:
        download.release()


def is_cacheable(headers: Mapping[str, str]) -> bool:
    """Return whether a response has a validator and may be stored in a shared cache."""
    headers = CIMultiDict(headers)
    if "ETag" not in headers and "Last-Modified" not in headers:
        return False
    if "*" in headers.get("Vary", ""):
        return False
    return not forbids_storing(headers)


def forbids_storing(headers: Mapping[str, str]) -> bool:
    """Return whether the headers forbid storing in shared caches (RFC 9111 section 5.2.2)."""
    return not directives(headers).keys().isdisjoint({"no-store", "private"})


def directives(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the directives of `Cache-Control` with their arguments, by lower-case name."""
    value = ",".join(CIMultiDict(headers).getall("Cache-Control", []))
    found = {}
    position = 0
    while position < len(value):
        directive = _DIRECTIVE.match(value, position)
        if directive:
            argument = directive["quoted"] or directive["token"] or ""
            found[directive["name"].lower()] = argument
            position = directive.end()
        else:
            position = value.find(",", position) + 1 or len(value)
    return found


def _seconds(value: str) -> int | None:
    """Parse delta-seconds (RFC 9111 section 1.2.2); None for anything else.

    Only ten digits are used, since that exceeds 2^31, and `int` rejects thousands of digits.
    """
    return int(value.lstrip("0")[:10] or "0") if value.isdecimal() else None
