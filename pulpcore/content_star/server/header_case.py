"""Title case of header names in HTTP/1.1 responses; ASGI has them in lower case."""

import re
from functools import lru_cache

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
_FRAMING = {b"connection", b"content-length", b"transfer-encoding"}


@lru_cache(maxsize=1024)
def header_prefix(name: bytes) -> bytes:
    """Return a header name in title case, with colon and space: `b"Content-Type: "`.

    A name with capitals is returned unchanged, except for the framing headers, which the server
    compares. Raises RuntimeError for an invalid name.
    """
    if not _TOKEN.fullmatch(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    if name != lower and lower not in _FRAMING:
        return name + b": "
    return _SPECIAL.get(lower, lower.title()) + b": "
