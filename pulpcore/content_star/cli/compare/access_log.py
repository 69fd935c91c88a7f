r"""Requests in lines of access logs.

The request line stands in quotes, followed by the status, in nginx's and Apache's `common` and
`combined`, in gunicorn's and aiohttp's logs, and in ours, whatever comes before. Headers are read
from fields `name="value"` at the end, which the log's format has to add:

    nginx     range="$http_range" if_none_match="$http_if_none_match"
    Apache    range=\"%{Range}i\" if_none_match=\"%{If-None-Match}i\"
    gunicorn  range="%({range}i)s" if_none_match="%({if-none-match}i)s"
"""

import re

from pulpcore.content_star.cli.compare.exchange import Request

MASKED = "***"
"""Placeholder for credentials in queries in our access log."""

HEADERS = {
    "range": "Range",
    "if_range": "If-Range",
    "if_match": "If-Match",
    "if_none_match": "If-None-Match",
    "if_modified_since": "If-Modified-Since",
    "if_unmodified_since": "If-Unmodified-Since",
    "accept": "Accept",
}

_REQUEST = re.compile(
    r'"(?P<method>[A-Z]{3,20}) (?P<target>/[^ "]*(?:\\"[^ "]*)*) HTTP/\d(?:\.\d)?"'
    r" \d{3}(?: |$)(?P<rest>.*)"
)
_FIELD = re.compile(r'(?:^|[\s,;])([a-z_]+)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))")
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "v": "\v", "f": "\f"}
_UNSAFE = re.compile(r"""[^!-~]|["<>\\^`{|}]""")  # RFC 3986 section 2


def parse_line(line: str) -> Request | None:
    """Return the request of a line, with its whole path as target; None if it has none."""
    match = _REQUEST.search(line)
    if match is None:
        return None
    headers = {}
    for name, value in _FIELD.findall(match["rest"]):
        header = HEADERS.get(name.lower().replace("-", "_"))
        if header and value not in ("", "-"):
            headers[header] = _unescape(value)
    return Request(_encoded(_unescape(match["target"])), match["method"], headers)


def _unescape(value: str) -> str:
    r"""Undo the escapes of nginx (`\x22`) and Apache (`\"`)."""

    def plain(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return _SIMPLE.get(match[2], match[2])

    return _ESCAPE.sub(plain, value) if "\\" in value else value


def _encoded(target: str) -> str:
    """Percent-encode characters that no URL has, although a client has sent them raw."""

    def encoded(match: re.Match[str]) -> str:
        character = match[0]
        raw = (
            character.encode("latin-1")
            if ord(character) < 256
            else character.encode("utf-8", "surrogateescape")
        )
        return "".join(f"%{byte:02X}" for byte in raw)

    return _UNSAFE.sub(encoded, target)
