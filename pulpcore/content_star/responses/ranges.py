"""Parse the Range header into byte ranges (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

# zchunk, by which dnf downloads metadata, requests 255 ranges at once, and fewer if refused.
MAX_RANGES = 256

_RANGE = re.compile(r"[ \t]*+(?P<first>[0-9]*+)[ \t]*+-[ \t]*+(?P<last>[0-9]*+)[ \t]*+")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from `start` to `stop`, which is exclusive."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """Return the Content-Range of this part of `size` bytes; its end is inclusive (14.4)."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


class RangeNotSatisfiable(Exception):
    """No requested range overlaps a representation of `size` bytes; sent as 416 (15.5.17)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"No satisfiable range within {size} bytes")
        self.size = size

    @property
    def content_range(self) -> str:
        """Content-Range of an unsatisfied range, which has the size alone (14.4)."""
        return f"bytes */{self.size}"


def parse_ranges(header: str, size: int) -> list[ByteRange] | None:
    """Parse a Range header for a representation of `size` bytes.

    Returns the ranges in the requested order, at least one and each at least one byte long, or None
    to send the whole: the unit is not bytes (14.2), the ranges add up to more than the whole or
    are more than MAX_RANGES (17.13), or it is a suffix of an empty representation.

    Raises RangeNotSatisfiable if no range overlaps the representation, and also if the header is
    invalid: 14.2 allows to ignore or to reject such ranges, and Pulp rejects them.
    """
    unit, equals, specifiers = header.partition("=")
    if unit.strip(" \t").lower() != "bytes":
        return None
    if not equals:
        raise RangeNotSatisfiable(size)
    if specifiers.count(",") >= MAX_RANGES:
        return None

    ranges: list[ByteRange] = []
    for specifier in specifiers.split(","):
        if specifier.strip(" \t"):
            requested = _parse_one(specifier, size)
            if requested is not None:
                ranges.append(requested)
    if not ranges:
        raise RangeNotSatisfiable(size)
    if size == 0 or sum(map(len, ranges)) > size:
        return None
    return _coalesce(ranges)


def _parse_one(specifier: str, size: int) -> ByteRange | None:
    """Parse one range and clip it to the representation; None if it lies outside (14.1.2)."""
    found = _RANGE.fullmatch(specifier)
    if found is None:
        raise RangeNotSatisfiable(size)
    first, last = found["first"], found["last"]
    if not first:
        return _suffix(last, size)
    start = _position(first)
    stop = _position(last) + 1 if last else max(size, start + 1)
    if stop <= start:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, min(stop, size)) if start < size else None


def _suffix(length: str, size: int) -> ByteRange | None:
    """Return the range of the last `length` bytes, or of all if there are fewer (14.1.2)."""
    if not length:
        raise RangeNotSatisfiable(size)
    count = _position(length)
    return ByteRange(max(size - count, 0), size) if count else None


def _position(digits: str) -> int:
    """Parse a position; cut to 20 digits, since int() raises for more than 4300."""
    return int(digits.lstrip("0")[:20] or "0")


def _coalesce(ranges: list[ByteRange]) -> list[ByteRange]:
    """Join each range with the one requested just before it where they touch (15.3.7.2).

    The client's order is preserved: it may request first the part that it needs first.
    """
    joined = ranges[:1]
    for following in ranges[1:]:
        previous = joined[-1]
        if following.start <= previous.stop and previous.start <= following.stop:
            joined[-1] = ByteRange(
                min(previous.start, following.start), max(previous.stop, following.stop)
            )
        else:
            joined.append(following)
    return joined
