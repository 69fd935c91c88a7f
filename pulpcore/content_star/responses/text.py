"""Text that Pulp writes itself, listings above all: compressed with gzip, with a weak entity tag.

Not by Starlette's `GZipMiddleware`, nor by Django's: both send gzip to clients that refuse it
(`gzip;q=0`), Starlette's leaves out `Vary` where the body is empty (HEAD) and strong tags as they
are, and either would compress once more what is kept compressed.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from pulpcore.content_star.responses.conditional import Validators, evaluate
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

# Listings become a sixth of their size with it; with 6 a tenth less, for twice the CPU.
LEVEL = 1

# Bytes of an `Accept-Encoding` that is read; browsers send about 30.
_LONGEST = 1024

# RFC 1952 section 2.3: deflate, no flags, no time, the fastest level, an unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"


def text_response(
    request: Request, body: bytes, content_type: str, *, may_compress: bool = True
) -> Response:
    """Return the response to GET with `body`: 200, 304 or 412.

    Text must not be compressed that is secret and repeats what the request says (BREACH).
    """
    headers = text_headers(request.scope, may_compress)
    headers["ETag"] = weak_etag([hashlib.blake2b(body, digest_size=16).digest()])
    status = evaluate(request.method, request.headers, Validators(headers["ETag"], None))
    if status is not None:
        headers.pop("Content-Encoding", None)
        return Response(status_code=status, headers=headers)
    if "Content-Encoding" in headers:
        body = gzip.compress(body, LEVEL, mtime=0)
    return Response(body, headers=headers, media_type=content_type)


def text_headers(scope: Scope, may_compress: bool = True) -> dict[str, str]:
    """Return the headers that GET and HEAD of a text have in common."""
    headers = dict(SECURITY_HEADERS)
    if may_compress:
        headers["Vary"] = "Accept-Encoding"
        if accepts_gzip(scope):
            headers["Content-Encoding"] = "gzip"
    return headers


def weak_etag(digests: Iterable[bytes]) -> str:
    """Make an entity tag that is the same for both encodings, which only a weak one may be."""
    return f'W/"{hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()}"'


def accepts_gzip(scope: Scope) -> bool:
    """Tell whether `Accept-Encoding` allows gzip (RFC 9110 section 12.5.3)."""
    value = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    if not value or len(value) > _LONGEST:
        return False
    weights = dict(map(_weight, value.decode("latin-1").lower().split(",")))
    named = [weights[name] for name in ("gzip", "x-gzip") if name in weights]
    return max(named, default=weights.get("*", 0.0)) > 0


def _weight(member: str) -> tuple[str, float]:
    coding, _, parameter = member.partition(";")
    name, _, value = parameter.partition("=")
    try:
        weight = float(value) if name.strip() == "q" else 1.0
    except ValueError:
        weight = 0.0
    return coding.strip(), weight


def deflate(data: bytes) -> bytes:
    """Compress `data` so that it can stand anywhere in a gzip stream (RFC 1951, full flush)."""
    return _deflate(data, zlib.Z_FULL_FLUSH)


def inflate(block: bytes) -> bytes:
    """Undo `deflate`."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(block)


def _deflate(data: bytes, flush: int) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(flush)


class PlainText:
    """A text with deflated blocks in the middle, as it is."""

    headers: Mapping[str, str] = {}

    def __init__(self, head: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail

    def length(self, size: int, deflated: int) -> int:
        """Return the bytes of the whole, of whose blocks these are the bytes as text and as is."""
        return len(self.head) + size + len(self.tail)

    def block(self, block: bytes) -> bytes:
        """Return the next block for sending."""
        return inflate(block)

    def end(self) -> bytes:
        """Return the rest."""
        return self.tail


class GzipText(PlainText):
    """The same as one gzip stream (RFC 1952), to which blocks are passed as they are."""

    def __init__(self, head: bytes, tail: bytes) -> None:
        super().__init__(_GZIP_HEADER + deflate(head), _deflate(tail, zlib.Z_FINISH))
        self._crc, self._size = zlib.crc32(head), len(head)
        self._text_of_tail = tail

    def length(self, size: int, deflated: int) -> int:
        return len(self.head) + deflated + len(self.tail) + 8

    def block(self, block: bytes) -> bytes:
        self._count(inflate(block))
        return block

    def end(self) -> bytes:
        self._count(self._text_of_tail)
        trailer = self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        return self.tail + trailer

    def _count(self, text: bytes) -> None:
        self._crc = zlib.crc32(text, self._crc)
        self._size += len(text)
