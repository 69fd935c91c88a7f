"""Header values: dates, the file name to save as, and what keeps artifacts from acting as pages."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
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

_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATE_FORMATS = (
    # IMF-fixdate, then the obsolete RFC 850 and asctime forms that a recipient must still accept.
    re.compile(rf"[A-Z][a-z]{{2}}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(
        rf"[A-Z][a-z]{{5,8}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"
    ),
    re.compile(rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)

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
    """Read any of the three HTTP date forms (5.6.7) as UTC; None for anything else."""
    value = value.strip()
    found = next(filter(None, (form.fullmatch(value) for form in _DATE_FORMATS)), None)
    if found is None:
        return None
    year, second = int(found["year"]), int(found["second"])
    try:
        return datetime(
            _full_year(year) if len(found["year"]) == 2 else year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            # The grammar allows a leap second, datetime does not.
            59 if second == 60 else second,
            tzinfo=UTC,
        )
    except ValueError:
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
