"""Responses of generated text, such as listings: gzip content coding and weak entity tags.

Starlette's `GZipMiddleware` and Django's both send gzip to clients that refuse it (`gzip;q=0`), and
would compress cached gzip blocks again. Starlette's also omits `Vary` if the body is empty (HEAD),
and does not weaken strong entity tags.
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

# gzip level: listings shrink to a sixth; level 6 saves another tenth, for twice the CPU time.
LEVEL = 1

# Bytes from which `compress` compresses (nginx's `gzip_min_length`): with its head, a shorter
# response is one packet of a network in either coding.
MIN_COMPRESSED_SIZE = 1000

# Bytes of the longest `Accept-Encoding` that is parsed; browsers send about 30.
_MAX_ACCEPT_ENCODING_LENGTH = 1024

# RFC 1952 section 2.3: deflate, no flags, no time, the fastest level, an unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"


def text_response(
    request: Request, body: bytes, content_type: str, *, may_compress: bool = True
) -> Response:
    """Return the response to GET with the text `body`: 200, 304 or 412.

    Text that has both secrets and input from the request must not be compressed (BREACH).
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


def compress(scope: Scope, response: Response) -> Response:
    """Apply gzip to the body of `response` if it is large enough and the client accepts it.

    Not for bodies that repeat input of the request, as error responses do (BREACH).
    """
    if len(response.body) >= MIN_COMPRESSED_SIZE:
        response.headers.add_vary_header("Accept-Encoding")
        if accepts_gzip(scope):
            response.body = gzip.compress(bytes(response.body), LEVEL, mtime=0)
            response.headers["Content-Encoding"] = "gzip"
            response.headers["Content-Length"] = str(len(response.body))
    return response


def text_headers(scope: Scope, may_compress: bool = True) -> dict[str, str]:
    """Return the headers of a text response that GET and HEAD share."""
    headers = dict(SECURITY_HEADERS)
    if may_compress:
        headers["Vary"] = "Accept-Encoding"
        if accepts_gzip(scope):
            headers["Content-Encoding"] = "gzip"
    return headers


def weak_etag(digests: Iterable[bytes]) -> str:
    """Return an entity tag for both content codings, so that it has to be weak (8.8.3.3)."""
    return f'W/"{hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()}"'


def accepts_gzip(scope: Scope) -> bool:
    """Return whether `Accept-Encoding` allows gzip (12.5.3)."""
    value = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    if not value or len(value) > _MAX_ACCEPT_ENCODING_LENGTH:
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
    """Compress `data` to a block for any position in a gzip stream (RFC 1951, full flush)."""
    return _deflate(data, zlib.Z_FULL_FLUSH)


def inflate(block: bytes) -> bytes:
    """Decompress a block that `deflate` made."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(block)


def _deflate(data: bytes, flush: int) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(flush)


class PlainText:
    """Identity coding of a text whose middle consists of deflated blocks."""

    headers: Mapping[str, str] = {}

    def __init__(self, head: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail

    def length(self, size: int, deflated: int) -> int:
        """Return the length of the body in bytes, given that of all blocks as text and deflated."""
        return len(self.head) + size + len(self.tail)

    def block(self, block: bytes) -> bytes:
        """Return the next block as it is sent."""
        return inflate(block)

    def end(self) -> bytes:
        """Return what follows the last block."""
        return self.tail


class GzipText(PlainText):
    """Gzip coding of such a text (RFC 1952), with the deflated blocks as they are."""

    def __init__(self, head: bytes, tail: bytes) -> None:
        super().__init__(_GZIP_HEADER + deflate(head), _deflate(tail, zlib.Z_FINISH))
        self._crc, self._size = zlib.crc32(head), len(head)
        self._plain_tail = tail

    def length(self, size: int, deflated: int) -> int:
        return len(self.head) + deflated + len(self.tail) + 8

    def block(self, block: bytes) -> bytes:
        self._count(inflate(block))
        return block

    def end(self) -> bytes:
        self._count(self._plain_tail)
        trailer = self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        return self.tail + trailer

    def _count(self, text: bytes) -> None:
        self._crc = zlib.crc32(text, self._crc)
        self._size += len(text)
