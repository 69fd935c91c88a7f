"""Decode a Content-Encoding (RFC 9110, section 8.4) in chunks of bounded size."""

import zlib

from pulpcore.content_star.remote.errors import CannotDecode
from pulpcore.content_star.responses.source import CHUNK_SIZE

_GZIP = 16 + zlib.MAX_WBITS
_DEFLATE = zlib.MAX_WBITS

# Largest ratio of decoded to encoded size for a file of unknown size: package indexes compress 5 to
# 30 times, while deflate expands up to 1032 times.
MAX_RATIO = 100

# Decoded bytes up to which the ratio is not checked: small files may be very repetitive.
RATIO_FREE = 16 * 1024 * 1024

# Bytes passed to zlib at a time. It copies its unconsumed input, which is almost all of it for data
# that expands a thousand times or has many small members.
_SLICE = 16 * 1024


def check_ratio(encoded: int, decoded: int) -> None:
    """Raise CannotDecode if `decoded` bytes out of `encoded` ones indicate a decompression bomb."""
    if decoded > max(RATIO_FREE, MAX_RATIO * encoded):
        raise CannotDecode(f"decompresses to more than {MAX_RATIO} times its size")


class Decoder:
    """Incremental decoder for `gzip` and `deflate`.

    `feed` a chunk, then `read` until it returns nothing. Raises CannotDecode.
    """

    def __init__(self, encoding: str) -> None:
        wbits = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _DEFLATE}.get(encoding)
        if wbits is None:
            raise CannotDecode(f"unsupported Content-Encoding {encoding!r}")
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)
        self._input = b""
        self._pending = memoryview(b"")
        self._has_started = False
        self._has_pending_output = False  # output for input that zlib has consumed

    def feed(self, data: bytes) -> None:
        """Add encoded `data`. Everything fed before has to have been read."""
        self._pending = memoryview(data)

    def read(self) -> bytes:
        """Return at most CHUNK_SIZE decoded bytes; none if more input is needed."""
        output = bytearray()  # collects the output of many small members
        while len(output) < CHUNK_SIZE and (
            self._input or self._pending or self._has_pending_output
        ):
            if not self._input:
                self._input, self._pending = bytes(self._pending[:_SLICE]), self._pending[_SLICE:]
            if self._input and self._zlib.eof:  # the next member of a gzip file
                self._zlib = zlib.decompressobj(self._wbits)
            output += self._decode(CHUNK_SIZE - len(output))
        return bytes(output)

    def _decode(self, limit: int) -> bytes:
        if not self._has_started and self._wbits == _DEFLATE and self._input[0] & 0x0F != 8:
            self._zlib = zlib.decompressobj(-_DEFLATE)  # "deflate" without zlib's header
        self._has_started = True
        try:
            data = self._zlib.decompress(self._input, limit)
        except zlib.error:
            raise CannotDecode("malformed Content-Encoding") from None
        self._input = self._zlib.unconsumed_tail or self._zlib.unused_data
        self._has_pending_output = len(data) == limit
        return data

    def finish(self) -> None:
        """Raise CannotDecode if the encoded data is incomplete."""
        if self._has_started and not self._zlib.eof:
            raise CannotDecode("truncated Content-Encoding")
