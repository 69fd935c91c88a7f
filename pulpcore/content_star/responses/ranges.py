"""The Range header: which bytes of a representation are asked for (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

# zchunk, which dnf fetches metadata with, asks for 255 ranges at once and for fewer if refused.
MAX_RANGES = 256

_RANGE = re.compile(r"[ \t]*+(?P<first>[0-9]*+)[ \t]*+-[ \t]*+(?P<last>[0-9]*+)[ \t]*+")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The Content-Range of this part of `size` bytes (14.4); there, the end is inclusive."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


class RangeNotSatisfiable(Exception):
    """No range asked for lies within the `size` bytes there are; to be answered 416 (15.5.17)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"No satisfiable range within {size} bytes")
        self.size = size

    @property
    def content_range(self) -> str:
        """The Content-Range that tells the client the size (14.4)."""
        return f"bytes */{self.size}"


def parse_ranges(header: str, size: int) -> list[ByteRange] | None:
    """Read a Range header against a representation of `size` bytes.

    Returns the ranges in the order asked for, never empty and each at least one byte long, or None
    to send the whole: the unit is not bytes (14.2), the request adds up to more than the whole or
    to more than MAX_RANGES parts (17.13), or it is a suffix of nothing.

    Raises RangeNotSatisfiable if no range overlaps the representation, and also if the header is no
    valid bytes range: 14.2 allows to ignore or to reject those, and Pulp rejects them.
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
            asked = _parse_one(specifier, size)
            if asked is not None:
                ranges.append(asked)
    if not ranges:
        raise RangeNotSatisfiable(size)
    if size == 0 or sum(map(len, ranges)) > size:
        return None
    return _coalesce(ranges)


def _parse_one(specifier: str, size: int) -> ByteRange | None:
    """One range, clipped to the representation; None if it lies outside (14.1.2)."""
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
    """The last `length` bytes: all there are if they are fewer, even none (14.1.2)."""
    if not length:
        raise RangeNotSatisfiable(size)
    count = _position(length)
    return ByteRange(max(size - count, 0), size) if count else None


def _position(digits: str) -> int:
    """Twenty digits are more than any file has; int() refuses thousands of them."""
    return int(digits.lstrip("0")[:20] or "0")


def _coalesce(ranges: list[ByteRange]) -> list[ByteRange]:
    """Join each range with the one asked for just before it where they touch (15.3.7.2).

    The client's order stays: it may have asked for what it needs first.
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
