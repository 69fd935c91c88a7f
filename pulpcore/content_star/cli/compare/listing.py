"""Listings in HTML as they arrive: their entries, in bounded memory."""

import hashlib
import re
from collections import Counter
from html import unescape
from typing import NamedTuple
from urllib.parse import unquote

NAMED_ENTRIES, NAMED_CHARACTERS = 20_000, 8 << 20
"""Listings with more entries, or longer ones, are compared by a digest alone: differences cannot be
named."""

_MAX_LINE = 64 * 1024
"""Bytes of one line that are kept: names are shorter than 4 kB, escaped and encoded."""

_TITLE = re.compile(rb"<title>\s*Index of ", re.IGNORECASE)
_HEAD_BYTES = 8192

# No part is tried twice from the same `<a`, so that the time is linear in the length of a line.
_ENTRY = re.compile(
    r'<a\b(?>[^<>]*?\bhref=")(?P<href>[^"]*+)"[^<>]*+>(?P<name>[^<]*+)</a>'
    r"\s*(?P<date>\d{2}-\w{3}-\d{4} \d{2}:\d{2})?[ ]*(?P<size>[^<\n]*)"
)


class Entry(NamedTuple):
    """A file or directory in a listing."""

    name: str
    href: str
    """Decoded; empty where it is the name, as it should be."""

    date: str
    size: str

    def __str__(self) -> str:
        return " ".join(filter(None, [self.name, self.href, self.date, self.size]))


class Listing:
    """The entries of a listing, whatever their order."""

    def __init__(self) -> None:
        self.count = 0
        self.digest = 0
        """Sum of the entries' digests: it does not depend on their order."""
        self.entries: Counter[Entry] | None = Counter()
        """The entries with how often each occurs; None if there are too many."""
        self._characters = 0

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        self.count += 1
        digest = hashlib.sha256(repr(tuple(entry)).encode("utf-8", "surrogatepass")).digest()
        self.digest = (self.digest + int.from_bytes(digest[:16])) % (1 << 128)
        if self.entries is not None:
            self.entries[entry] += 1
            self._characters += sum(map(len, entry))
            if self.count > NAMED_ENTRIES or self._characters > NAMED_CHARACTERS:
                self.entries = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Listing):
            return NotImplemented
        return (self.count, self.digest) == (other.count, other.digest)

    __hash__ = None  # type: ignore[assignment]

    def has(self, name: str) -> bool:
        """Return whether an entry has this name; True if the names are not kept."""
        return self.entries is None or any(entry.name == name for entry in self.entries)

    def without(self, other: "Listing") -> str:
        """Describe the entries that `other` lacks, by one example."""
        if self.entries is None or other.entries is None:
            return f"{self.count} entries, too many to name"
        missing = self.entries - other.entries
        if not missing:
            return f"{self.count} entries"
        return f"{missing.total()} of {self.count} entries only here: {next(iter(missing))}"


class ListingParser:
    """Collects the entries of a page while it arrives."""

    def __init__(self) -> None:
        self.listing: Listing | None = None
        """None as long as the page is not known to be a listing."""
        self._buffer = b""
        self._is_another_page = False

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the page."""
        self._buffer += data
        if self.listing is None and not self._is_listing():
            return
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest[-_MAX_LINE:]
        for line in lines:
            self._parse(line)

    def _is_listing(self) -> bool:
        """Look for the title at the beginning of the page."""
        if not self._is_another_page and _TITLE.search(self._buffer[:_HEAD_BYTES]):
            self.listing = Listing()
            return True
        if self._is_another_page or len(self._buffer) >= _HEAD_BYTES:
            self._is_another_page, self._buffer = True, b""
        return False

    def close(self) -> Listing | None:
        """Return the listing, None if the page is not one."""
        if self.listing is not None:
            self._parse(self._buffer)
        return self.listing

    def _parse(self, line: bytes) -> None:
        assert self.listing is not None
        for match in _ENTRY.finditer(line.decode("utf-8", "replace")):
            href, name = unescape(match["href"]), unescape(match["name"])
            if name == "../":
                continue
            relative = href.removeprefix("./")
            is_name = name in (relative, unquote(relative))
            self.listing.add(
                Entry(
                    name,
                    "" if is_name else unquote(href),
                    match["date"] or "",
                    match["size"].strip(),
                )
            )
