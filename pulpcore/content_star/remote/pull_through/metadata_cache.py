"""What remotes sent that is no content, kept for a moment and asked about before it is used again.

Package indexes and other metadata cannot be saved, since nobody knows when they change; and each
client asks for them (pulpcore issue 5144).
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from anyio.lowlevel import RunVar
from django.conf import settings
from multidict import CIMultiDict

from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.errors import RemoteBroke, RemoteUnavailable
from pulpcore.content_star.remote.pull_through.models import PullThroughRequest
from pulpcore.content_star.responses.headers import parse_http_date
from pulpcore.content_star.responses.source import StoreUnavailable

# How many answers a process keeps: each has an open file.
MAX_ENTRIES = 128

# The largest answer to be kept, as a part of the room for all.
MAX_SHARE = 4

# Seconds after which what a remote last confirmed is not used any more while the remote fails.
STALE_IF_ERROR = 600

# Seconds for which a remote that failed is not asked again, where there is something to use.
COOLDOWN = 5

# Directives by which no shared cache may use what is not fresh (RFC 9111 section 5.2.2).
_NEVER_STALE = frozenset({"no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"})

# What a 304 cannot change, since the body stays; it was asked for by the first of these.
_BODY_HEADERS = ("ETag", "Content-Length", "Content-Encoding", "Content-Range", "Transfer-Encoding")

# The possessive quantifiers keep a hostile value linear.
_DIRECTIVE = re.compile(
    r"\s*+(?P<name>[^\s=,]++)\s*+"
    r'(?:=\s*+(?:"(?P<quoted>[^"]*+)"|(?P<token>[^\s",]*+))\s*+)?(?:,|$)'
)


class MetadataEntry:
    """An answer that is kept, in a file without a name, for as long as its download is entered."""

    def __init__(self, download: Download, size: int) -> None:
        self.download = download
        self.size = size
        self._cooldown_until = 0.0
        self._update(CIMultiDict(download.headers))

    def _update(self, headers: CIMultiDict[str]) -> None:
        self.headers = headers
        self._directives = directives(headers)
        self._confirmed_at = time.monotonic()

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """Headers that ask whether it still holds (RFC 9110 section 13.1)."""
        validators = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
        return tuple(
            (condition, self.headers[name])
            for condition, name in validators.items()
            if name in self.headers
        )

    @property
    def is_fresh(self) -> bool:
        """Whether it may be used without asking (RFC 9111 section 4.2), by our bound too."""
        if time.monotonic() < self._cooldown_until and self.may_be_stale:
            return True
        if "no-cache" in self._directives:
            return False
        ttl = float(settings.CONTENT_STAR_METADATA_TTL)
        return self._age < (ttl if self._lifetime is None else min(ttl, self._lifetime))

    @property
    def _lifetime(self) -> float | None:
        """Seconds for which it is fresh from when it came, if its remote has said so (RFC 9111
        section 4.2.1)."""
        SAID = self._directives.get("s-maxage") or self._directives.get("max-age", "")
        lifetime = _seconds(SAID)
        if lifetime is not None:
            # Caches on the way to the remote have added `Age`.
            return lifetime - (_seconds(self.headers.get("Age", "")) or 0)
        if "Expires" not in self.headers:
            return None
        expires = parse_http_date(self.headers["Expires"])
        date = parse_http_date(self.headers.get("Date", ""))
        # What is no date, such as 0, has passed.
        return (expires - date).total_seconds() if expires and date else 0

    @property
    def may_be_stale(self) -> bool:
        """Whether it may be used when the remote fails (RFC 9111 section 4.2.4)."""
        if not self._directives.keys().isdisjoint(_NEVER_STALE):
            return False
        return self._age < STALE_IF_ERROR

    @property
    def _age(self) -> float:
        return time.monotonic() - self._confirmed_at

    def confirm(self, SAID: Mapping[str, str]) -> None:
        """It still holds, by the remote's word, which may say something new of it (RFC 9111
        sections 3.2 and 4.3.4)."""
        headers = self.headers.copy()
        headers.popall("Age", None)  # how old it was when it came
        new = CIMultiDict(SAID)
        for name in _BODY_HEADERS:
            new.popall(name, None)
        headers.update(new)
        self.download.headers = headers
        self._update(headers)

    def back_off(self) -> None:
        """The remote fails: do not make the next ones wait for it, too."""
        self._cooldown_until = time.monotonic() + COOLDOWN


class MetadataCache:
    """The answers of remotes that a process keeps, the least recently used ones leave first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[PullThroughRequest, MetadataEntry] = OrderedDict()
        self._finishing: dict[Download, asyncio.Task[None]] = {}

    def get(self, request: PullThroughRequest) -> MetadataEntry | None:
        """Return what is kept of `wanted`, be it fresh or not."""
        entry = self._entries.get(request)
        if entry is not None:
            self._entries.move_to_end(request)
        return entry

    def put(self, request: PullThroughRequest, download: Download) -> None:
        """Keep what a complete download has brought, if its remote and our bounds allow that."""
        current = self._entries.get(request)
        if current is not None and current.download is download:
            return
        assert download.size is not None
        self.remove(request)
        if download.size > _max_entry_size() or not is_cacheable(download.headers):
            return
        download.retain()
        self._entries[request] = MetadataEntry(download, download.size)
        while len(self._entries) > MAX_ENTRIES or self._size > settings.CONTENT_STAR_METADATA_SIZE:
            self.remove(next(iter(self._entries)))

    def confirm(
        self, request: PullThroughRequest, entry: MetadataEntry, SAID: Mapping[str, str]
    ) -> None:
        """What is kept still holds, as its remote said in an answer with these headers."""
        entry.confirm(SAID)
        if self._entries.get(request) is entry and not is_cacheable(entry.headers):
            self.remove(request)

    def finish_in_background(self, download: Download) -> None:
        """Have a download go on to be kept, though its last client may leave now.

        Or clients with a copy of their own, who get 304 and leave, would start it again and again.
        """
        if download.complete or download in self._finishing:
            return
        if not is_cacheable(download.headers) or (download.size or 0) > _max_entry_size():
            return
        download.retain()
        task = self._finishing[download] = asyncio.create_task(_read_to_end(download))
        task.add_done_callback(lambda _: self._finishing.pop(download))

    def remove(self, request: PullThroughRequest) -> None:
        """Keep nothing of `wanted` any more."""
        entry = self._entries.pop(request, None)
        if entry is not None:
            entry.download.release()

    @property
    def _size(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    async def close(self) -> None:
        """Let go of everything."""
        finishing = list(self._finishing.values())
        for task in finishing:
            task.cancel()
        await asyncio.gather(*finishing, return_exceptions=True)
        for request in list(self._entries):
            self.remove(request)


def _max_entry_size() -> int:
    return int(settings.CONTENT_STAR_METADATA_SIZE) // MAX_SHARE


async def _read_to_end(download: Download) -> None:
    offset = 0
    try:
        while not download.complete and offset <= _max_entry_size():
            offset = await download.wait_for_more(offset)
    except (RemoteBroke, RemoteUnavailable, StoreUnavailable):
        pass  # those who still read it are told
    finally:
        download.release()


def is_cacheable(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer with these headers can be asked about, and may be stored."""
    headers = CIMultiDict(headers)
    if "ETag" not in headers and "Last-Modified" not in headers:
        return False
    if "*" in headers.get("Vary", ""):
        return False
    return not forbids_storing(headers)


def forbids_storing(headers: Mapping[str, str]) -> bool:
    """Tell whether caches that many share may not have it (RFC 9111 section 5.2.2)."""
    return not directives(headers).keys().isdisjoint({"no-store", "private"})


def directives(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the directives of `Cache-Control`, with their arguments."""
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
    """Return delta-seconds (RFC 9111 section 1.2.2), None for anything else.

    Ten digits are more than 2^31, which is as good as for ever; `int` refuses thousands of them.
    """
    return int(value.lstrip("0")[:10] or "0") if value.isdecimal() else None


_current: RunVar[MetadataCache] = RunVar("content_star_metadata")


def current_metadata_cache() -> MetadataCache:
    """Return what is kept in this event loop, within `metadata`."""
    return _current.get()


@asynccontextmanager
async def metadata() -> AsyncIterator[None]:
    """Keep metadata in this event loop until the block ends; within `downloads`."""
    instance = MetadataCache()
    token = _current.set(instance)
    try:
        yield
    finally:
        await instance.close()
        _current.reset(token)
