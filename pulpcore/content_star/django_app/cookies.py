"""The cookies of a request, parsed in linear time on each Python that we support."""

import re
from http import cookies

_ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def make_cookies_linear() -> None:
    """Replace what `http.cookies` undoes quoting with, which Django calls for each cookie.

    That of Python before 3.11.10 and 3.12.6 is quadratic (CVE-2024-7592): a cookie of 100 kB of
    backslashes took 18 s. `Cookie` comes from the client, and nobody is asked who that is before.
    """
    cookies._unquote = unquote  # type: ignore[assignment]


def unquote(value: str | None) -> str | None:
    """Return a cookie's value without the quotes and escapes of RFC 2109."""
    if value is None or len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPE.sub(_character, value[1:-1])


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8)) if escape[1] else escape[2]
