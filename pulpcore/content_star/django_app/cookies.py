"""Linear-time cookie parsing on all supported Python versions (CVE-2024-7592)."""

import re
from http import cookies

_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def make_cookies_linear() -> None:
    """Replace `http.cookies._unquote`, which Django calls for each cookie.

    Before Python 3.11.10 and 3.12.6 it takes quadratic time (CVE-2024-7592): 18 s for a cookie of
    100 kB of backslashes. Cookies are parsed before authentication.
    """
    cookies._unquote = unquote  # type: ignore[assignment]


def unquote(value: str | None) -> str | None:
    """Return a cookie's value without the quotes and escapes of RFC 2109."""
    if value is None or len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPE.sub(_character, value[1:-1])


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8)) if escape[1] else escape[2]
