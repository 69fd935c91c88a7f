"""Evaluate conditional requests: If-Match, If-None-Match, If-Range and dates (RFC 9110, 13)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from starlette.datastructures import Headers

from pulpcore.content_star.responses.headers import parse_http_date

# Characters of the longest list of entity tags that is parsed, which is some hundred tags.
MAX_TAGS_LENGTH = 8192

# One list member. With possessive quantifiers a hostile value takes linear time: an attempt never
# reads past the next quote and never backtracks.
_MEMBER = re.compile(r'[ \t]*+(?P<tag>(?:W/)?"[^"]*+")[ \t]*+(?:,|$)')


@dataclass(frozen=True, slots=True)
class Validators:
    """Validators of a representation: entity tag and modification date (8.8).

    `etag` includes its quotes, and `W/` if it is weak; it is empty if there is none.
    `last_modified` is an aware datetime, or None if unknown.
    """

    etag: str
    last_modified: datetime | None


def evaluate(method: str, headers: Headers, validators: Validators) -> int | None:
    """Return the status that preconditions decide, 304 or 412, or None to go on (13.2.2).

    A date that is invalid or sent twice is ignored. An invalid entity tag matches nothing.
    """
    if "if-match" in headers:
        if not _if_match(headers, validators):
            return 412
    elif _modified_after("if-unmodified-since", headers, validators) is True:
        return 412

    safe = method in ("GET", "HEAD")
    if "if-none-match" in headers:
        if not _if_none_match(headers, validators):
            return 304 if safe else 412
    elif safe and _modified_after("if-modified-since", headers, validators) is False:
        return 304
    return None


def if_range_matches(headers: Headers, validators: Validators) -> bool:
    """Return whether Range applies: there is no If-Range, or it matches (13.1.5).

    Entity tags are compared strongly; a date has to equal the modification date to the second.
    """
    values = headers.getlist("if-range")
    if not values:
        return True
    value = ",".join(values).strip(" \t")
    if value and value == _strong_etag(validators):
        return True
    date = parse_http_date(value)
    return date is not None and date == _last_modified(validators)


def _if_match(headers: Headers, validators: Validators) -> bool:
    """Evaluate If-Match by strong comparison: a weak tag matches nothing (13.1.1)."""
    value = _joined_lines(headers, "if-match")
    return value == "*" or _strong_etag(validators) in _tags(value)


def _if_none_match(headers: Headers, validators: Validators) -> bool:
    """Evaluate If-None-Match by weak comparison: `W/"x"` matches `"x"` (13.1.2)."""
    value = _joined_lines(headers, "if-none-match")
    etag = validators.etag.removeprefix("W/")
    return value != "*" and all(tag.removeprefix("W/") != etag for tag in _tags(value))


def _strong_etag(validators: Validators) -> str:
    """Return the entity tag for strong comparison; empty if it is weak (8.8.3.2)."""
    return "" if validators.etag.startswith("W/") else validators.etag


def _joined_lines(headers: Headers, name: str) -> str:
    """Return the value of a list header, its lines joined with commas (5.3)."""
    return ",".join(headers.getlist(name)).strip(" \t")


def _tags(value: str) -> Iterator[str]:
    """Yield the entity tags of a list, without its invalid members.

    A list of over `MAX_TAGS_LENGTH` characters yields none, so that it matches nothing.
    """
    if len(value) > MAX_TAGS_LENGTH:
        return
    position = 0
    while position < len(value):
        member = _MEMBER.match(value, position)
        if member is not None:
            yield member["tag"]
            position = member.end()
            continue
        comma = value.find(",", position)
        if comma < 0:
            return
        position = comma + 1


def _modified_after(name: str, headers: Headers, validators: Validators) -> bool | None:
    """Return whether the modification date is later than the header's; None if one is unknown."""
    values = headers.getlist(name)
    modified = _last_modified(validators)
    if len(values) != 1 or modified is None:
        return None
    date = parse_http_date(values[0])
    return None if date is None else modified > date


def _last_modified(validators: Validators) -> datetime | None:
    """Return the modification date in whole seconds, as HTTP dates have it."""
    modified = validators.last_modified
    return None if modified is None else modified.replace(microsecond=0)
