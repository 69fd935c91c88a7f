"""Preconditions: what If-Match and its four siblings ask for (RFC 9110, section 13)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from starlette.datastructures import Headers

from pulpcore.content_star.responses.headers import parse_http_date

# Bytes of a list of tags that is read: some hundred. Clients have as many copies at most.
MAX_TAGS_LENGTH = 8192

# One list member. The possessive quantifiers keep a hostile value linear: an attempt never reads
# past the next quote, and never goes back over what it read.
_MEMBER = re.compile(r'[ \t]*+(?P<tag>(?:W/)?"[^"]*+")[ \t]*+(?:,|$)')


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one version of a resource from another (8.8).

    `etag` has its quotes, and `W/` if it is weak; it is empty when there is none. `last_modified`
    is aware, or None when unknown.
    """

    etag: str
    last_modified: datetime | None


def evaluate(method: str, headers: Headers, validators: Validators) -> int | None:
    """Return 304 or 412 where a precondition decides the answer, None to go on (13.2.2).

    A date that cannot be read, or that comes twice, is as good as none. A tag that cannot be read
    matches nothing.
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
    """Whether a Range may be honoured: no If-Range, or one that names this very version (13.1.5).

    An entity tag is compared strongly, a date must be the last modification to the second.
    """
    values = headers.getlist("if-range")
    if not values:
        return True
    value = ",".join(values).strip(" \t")
    if value and value == _strong(validators):
        return True
    date = parse_http_date(value)
    return date is not None and date == _last_modified(validators)


def _if_match(headers: Headers, validators: Validators) -> bool:
    """13.1.1, strong comparison: a weak tag is equal to none."""
    value = _joined(headers, "if-match")
    return value == "*" or _strong(validators) in _tags(value)


def _if_none_match(headers: Headers, validators: Validators) -> bool:
    """13.1.2, weak comparison: W/"x" is "x"."""
    value = _joined(headers, "if-none-match")
    etag = validators.etag.removeprefix("W/")
    return value != "*" and all(tag.removeprefix("W/") != etag for tag in _tags(value))


def _strong(validators: Validators) -> str:
    """The tag, if it is equal to any: to none if it is weak (8.8.3.2)."""
    return "" if validators.etag.startswith("W/") else validators.etag


def _joined(headers: Headers, name: str) -> str:
    """Several lines of a list are one list (5.3)."""
    return ",".join(headers.getlist(name)).strip(" \t")


def _tags(value: str) -> Iterator[str]:
    """The entity tags of a list; whatever else stands between two commas is skipped.

    None of a list that is over `MAX_TAGS_LENGTH`: it matches nothing.
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
    """Whether the last modification is later than the date in the header; None if unknown."""
    values = headers.getlist(name)
    modified = _last_modified(validators)
    if len(values) != 1 or modified is None:
        return None
    date = parse_http_date(values[0])
    return None if date is None else modified > date


def _last_modified(validators: Validators) -> datetime | None:
    """In whole seconds, as it was sent: HTTP dates know nothing smaller."""
    modified = validators.last_modified
    return None if modified is None else modified.replace(microsecond=0)
