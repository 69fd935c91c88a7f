"""Header values: dates, the file name to save as, and what keeps artifacts from acting as pages."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

Disposition = Literal["attachment", "inline"]

# Artifacts share an origin with the REST API and its sessions, and their bytes come from users. In
# a sandbox a page runs no script, submits no form and has an origin of its own, so it reads nothing
# of ours. It keeps its looks (a published index.html, a .txt, an .svg), and its links still save
# files: without allow-downloads a sandboxed index page would list packages nobody can fetch.
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

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Characters of the longest date that means anything, with a comment for its time zone. What parses
# dates reads numbers of any length.
_MAX_DATE_LENGTH = 64

_RFC_850_YEAR = re.compile(r"-[0-9]{2} ")

# The characters RFC 8187 section 3.2.1 lets stand for themselves, beside letters and digits.
_EXT_VALUE_SAFE = "!#$&+-.^_`|~"
# Not representable in the plain parameter: not ASCII, or read differently from one browser to the
# next (RFC 6266, appendix D, on quotes and backslashes).
_NOT_PLAIN = re.compile(r'[^ -~]|["\\]')


def http_date(moment: datetime) -> str:
    """Format an aware datetime as IMF-fixdate (5.6.7), dropping what is below a second."""
    utc = moment.astimezone(UTC)
    # strftime would write the names of days and months in the process's locale.
    return (
        f"{_DAYS[utc.weekday()]}, {utc.day:02} {_MONTHS[utc.month - 1]} {utc.year:04} "
        f"{utc.hour:02}:{utc.minute:02}:{utc.second:02} GMT"
    )


def parse_http_date(value: str) -> datetime | None:
    """Parse an HTTP date into UTC; None for anything that is no date.

    Beside the three forms of RFC 9110 section 5.6.7 that is what mail has (RFC 5322 section 3.3),
    since clients write `UTC`, `+0000` and offsets too. A date without a zone is UTC, as asctime's;
    one with the name of an unknown zone is none.
    """
    value = value.strip()
    if len(value) > _MAX_DATE_LENGTH or not value.isascii():
        return None
    try:
        # A leap second, which the grammar allows and datetime does not.
        date = parsedate_to_datetime(value.replace(":60 ", ":59 "))
        if date.tzinfo is None:
            return None if value[-1].isalpha() else date.replace(tzinfo=UTC)
        if _RFC_850_YEAR.search(value):
            date = date.replace(year=_full_year(date.year % 100))
        return date.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _full_year(two_digits: int) -> int:
    """The century of an RFC 850 year: never more than 50 years in the future (5.6.7)."""
    this_year = datetime.now(UTC).year
    year = this_year - this_year % 100 + two_digits
    return year - 100 if year > this_year + 50 else year


def content_disposition(filename: str, disposition: Disposition) -> str:
    """Say whether to save or show the response, and under which name (RFC 6266).

    Only the last component of a path is used. What cannot be printed, and the backslash that some
    clients take for a separator, become "_", so no name can end the header or leave a folder.
    A name that plain ASCII cannot carry is sent a second time as `filename*` (RFC 8187).
    """
    name = _safe_name(filename)
    if name in ("", ".", ".."):
        return disposition
    fallback = _NOT_PLAIN.sub("_", name)
    value = f'{disposition}; filename="{fallback}"'
    # Some browsers decode %41 in the plain form, none does in the extended one.
    if fallback == name and "%" not in name:
        return value
    return f"{value}; filename*=UTF-8''{quote(name, safe=_EXT_VALUE_SAFE)}"


def _safe_name(filename: str) -> str:
    name = filename.rpartition("/")[2].replace("\\", "_")
    if name.isprintable():
        return name
    return "".join(character if character.isprintable() else "_" for character in name)


# Bytes. Django parses a `Content-Type` in quadratic time, on the event loop: 0.6 s for 100 kB, a
# minute for 1 MB. REST framework parses each member of `Accept` for each renderer. The longest that
# clients send are those of browsers, of 200, and multipart boundaries, of 70.
MAX_LENGTHS = {b"content-type": 1024, b"accept": 4096}


def too_long(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Return the names of headers that are longer than `MAX_LENGTHS` says."""
    return {name for name, value in headers if len(value) > MAX_LENGTHS.get(name, len(value))}
