"""Format and parse header values: HTTP dates, Content-Disposition, security headers, limits."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

Disposition = Literal["attachment", "inline"]

# Artifacts share an origin with the REST API and its sessions, and their bytes come from users. A
# sandboxed page runs no script, submits no form and has an opaque origin, so it cannot read from
# the API. Styles and images still work (index.html, .svg), and allow-downloads lets the links of an
# index page save files.
SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "content-security-policy": (
            "sandbox allow-downloads; default-src 'none'; base-uri 'none'; form-action 'none'; "
            "img-src 'self' data:; media-src 'self'; font-src 'self' data:; "
            "style-src 'self' 'unsafe-inline'"
        ),
    }
)

RETRY_AFTER = 5
"""Seconds in `Retry-After` of 503 and 429: of a service that is not available, or a full queue."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Characters of the longest date that is parsed, with a comment for its time zone. The parser takes
# numbers of any length.
_MAX_DATE_LENGTH = 64

# RFC 3986 section 3.2, for a host that is not empty (RFC 9110 section 4.2.1).
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_HOST_BYTES = 1024

_RFC_850_YEAR = re.compile(r"-[0-9]{2} ")

# attr-char of RFC 8187 section 3.2.1, without letters and digits.
_EXT_VALUE_SAFE = "!#$&+-.^_`|~"
# Characters that the plain `filename` cannot have: those that are not ASCII, and quotes and
# backslashes, which browsers read differently (RFC 6266, appendix D).
_NOT_PLAIN = re.compile(r'[^ -~]|["\\]')


def is_host(value: bytes) -> bool:
    """Return whether a value of `Host` is a host with an optional port, of at most 1,024 bytes."""
    return len(value) <= _HOST_BYTES and _HOST.fullmatch(value) is not None


def http_date(moment: datetime) -> str:
    """Format an aware datetime as IMF-fixdate, in whole seconds (5.6.7)."""
    utc = moment.astimezone(UTC)
    # strftime uses the locale of the process for names of days and months.
    return (
        f"{_DAYS[utc.weekday()]}, {utc.day:02} {_MONTHS[utc.month - 1]} {utc.year:04} "
        f"{utc.hour:02}:{utc.minute:02}:{utc.second:02} GMT"
    )


def parse_http_date(value: str) -> datetime | None:
    """Parse an HTTP date into UTC; return None if it is invalid.

    Accepts the three forms of RFC 9110 section 5.6.7, and those of mail (RFC 5322 section 3.3),
    since clients send `UTC`, `+0000` and offsets too. A date without a zone is UTC, as asctime's;
    one with an unknown zone is invalid.
    """
    value = value.strip()
    if len(value) > _MAX_DATE_LENGTH or not value.isascii():
        return None
    try:
        # The grammar allows leap seconds, datetime does not.
        date = parsedate_to_datetime(value.replace(":60 ", ":59 "))
        if date.tzinfo is None:
            return None if value[-1].isalpha() else date.replace(tzinfo=UTC)
        if _RFC_850_YEAR.search(value):
            date = date.replace(year=_full_year(date.year % 100))
        return date.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _full_year(two_digits: int) -> int:
    """Return the year of an RFC 850 date, at most 50 years in the future (5.6.7)."""
    this_year = datetime.now(UTC).year
    year = this_year - this_year % 100 + two_digits
    return year - 100 if year > this_year + 50 else year


def content_disposition(filename: str, disposition: Disposition) -> str:
    """Format Content-Disposition with the last component of `filename` (RFC 6266).

    Unprintable characters, and the backslash that some clients take for a separator, become "_", so
    that no name can end the header or leave a folder. A name that the plain parameter cannot
    represent is also sent as `filename*` (RFC 8187).
    """
    name = _safe_name(filename)
    if name in ("", ".", ".."):
        return disposition
    fallback = _NOT_PLAIN.sub("_", name)
    value = f'{disposition}; filename="{fallback}"'
    # Some browsers percent-decode the plain parameter, so such names need the extended one too.
    if fallback == name and "%" not in name:
        return value
    return f"{value}; filename*=UTF-8''{quote(name, safe=_EXT_VALUE_SAFE)}"


def _safe_name(filename: str) -> str:
    name = filename.rpartition("/")[2].replace("\\", "_")
    if name.isprintable():
        return name
    return "".join(character if character.isprintable() else "_" for character in name)


# Bytes of the longest accepted value. Django parses `Content-Type` in quadratic time, on the event
# loop: 0.6 s for 100 kB, a minute for 1 MB. REST framework parses each member of `Accept` for each
# renderer. Browsers send some 200 bytes of `Accept`, and multipart boundaries have up to 70.
MAX_LENGTHS = {b"content-type": 1024, b"accept": 4096}


def too_long(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Return the names of headers whose values are longer than `MAX_LENGTHS` allows."""
    return {name for name, value in headers if len(value) > MAX_LENGTHS.get(name, len(value))}
