"""Undoes a Content-Encoding (RFC 9110, section 8.4) in pieces of bounded size."""

import zlib

from pulpcore.content_star.remote.errors import CannotDecode
from pulpcore.content_star.responses.source import STEP

_GZIP = 16 + zlib.MAX_WBITS
_DEFLATE = zlib.MAX_WBITS

# How many times its encoded size a file of unknown size may have: package indexes compress 5 to 30
# times, while deflate makes up to 1032 bytes of one.
MAX_RATIO = 100

# Bytes up to which the ratio does not matter: small files may repeat themselves.
RATIO_FREE = 16 * 1024 * 1024

# Bytes that are given to zlib at a time. It copies what it leaves over, which is almost all of it
# for what expands a thousand times, or has many small members.
_SLICE = 16 * 1024


def check_ratio(encoded: int, decoded: int) -> None:
    """Raise CannotDecode if `decoded` bytes out of `encoded` ones are a decompression bomb."""
    if decoded > max(RATIO_FREE, MAX_RATIO * encoded):
        raise CannotDecode(f"decompresses to more than {MAX_RATIO} times its size")


class Decoder:
    """Of `gzip` or `deflate`. Feed it, then read until nothing comes. Raises CannotDecode."""

    def __init__(self, encoding: str) -> None:
        wbits = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _DEFLATE}.get(encoding)
        if wbits is None:
            raise CannotDecode(f"no decoder for {encoding!r}")
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)
        self._input = b""
        self._pending = memoryview(b"")
        self._has_started = False
        self._has_pending_output = False  # output of what it has taken

    def feed(self, data: bytes) -> None:
        """Give it what comes next, after what came before has been read."""
        self._pending = memoryview(data)

    def read(self) -> bytes:
        """Return at most STEP bytes, or nothing when there has to be more input."""
        output = bytearray()  # members of a few bytes come together
        while len(output) < STEP and (self._input or self._pending or self._has_pending_output):
            if not self._input:
                self._input, self._pending = bytes(self._pending[:_SLICE]), self._pending[_SLICE:]
            if self._input and self._zlib.eof:  # the next member of a gzip file
                self._zlib = zlib.decompressobj(self._wbits)
            output += self._decode(STEP - len(output))
        return bytes(output)

    def _decode(self, limit: int) -> bytes:
        if not self._has_started and self._wbits == _DEFLATE and self._input[0] & 0x0F != 8:
            self._zlib = zlib.decompressobj(-_DEFLATE)  # "deflate" without zlib's header
        self._has_started = True
        try:
            data = self._zlib.decompress(self._input, limit)
        except zlib.error:
            raise CannotDecode("the encoding is broken") from None
        self._input = self._zlib.unconsumed_tail or self._zlib.unused_data
        self._has_pending_output = len(data) == limit
        return data

    def finish(self) -> None:
        """Everything has been fed and read."""
        if self._has_started and not self._zlib.eof:
            raise CannotDecode("the encoding ends too early")
