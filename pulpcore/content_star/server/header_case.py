"""Heads of HTTP/1.1 responses: header names in title case, which ASGI has in lower case."""

import re
from collections.abc import Iterable
from functools import lru_cache

_CONTROLS = bytes([*range(9), *range(10, 32), 127])  # all but the tabulator

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2

# Names that are not in title case.
_SPECIAL = {
    name.lower(): name
    for name in (
        b"Content-MD5",
        b"Correlation-ID",
        b"DNT",
        b"ETag",
        b"SourceMap",
        b"TE",
        b"WWW-Authenticate",
        b"X-DNS-Prefetch-Control",
        b"X-PULP-ARTIFACT-SIZE",
        b"X-PULP-CACHE",
        b"X-Request-ID",
        b"X-UA-Compatible",
        b"X-XSS-Protection",
    )
}
FRAMING = {b"connection", b"content-length", b"transfer-encoding"}


@lru_cache(maxsize=1024)
def header_prefix(name: bytes) -> bytes:
    """Return a header name in title case, with colon and space: `b"Content-Type: "`.

    A name with capitals is returned unchanged, except for the framing headers, which the server
    compares. Raises RuntimeError for an invalid name.
    """
    if not _TOKEN.fullmatch(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    if name != lower and lower not in FRAMING:
        return name + b": "
    return _SPECIAL.get(lower, lower.title()) + b": "


def serialize_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the lines of headers, each with its end. Raises RuntimeError for an invalid one."""
    return join_lines([header_prefix(name) + value for name, value in headers])


def join_lines(lines: list[bytes]) -> bytes:
    """Join the lines of a head, each with its end.

    Raises RuntimeError for a line with control characters (response splitting).
    """
    lines.append(b"")
    head = b"\r\n".join(lines)
    if len(head.translate(None, _CONTROLS)) != len(head) - 2 * (len(lines) - 1):
        raise RuntimeError("Invalid HTTP header value.")
    return head
