"""Undoes a Content-Encoding (RFC 9110, section 8.4) in pieces of bounded size."""

import zlib

from pulpcore.content_star.remote.failures import CannotDecode
from pulpcore.content_star.responses.disk import STEP

_GZIP = 16 + zlib.MAX_WBITS
_DEFLATE = zlib.MAX_WBITS


class Decoder:
    """Of `gzip` or `deflate`. Feed it, then read until nothing comes. Raises CannotDecode."""

    def __init__(self, encoding: str) -> None:
        wbits = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _DEFLATE}.get(encoding)
        if wbits is None:
            raise CannotDecode(f"no decoder for {encoding!r}")
        self._wbits = wbits
        self._inner = zlib.decompressobj(wbits)
        self._input = b""
        self._has_begun = False

    def feed(self, data: bytes) -> None:
        """Give it what comes next."""
        self._input += data

    def read(self) -> bytes:
        """Return at most STEP bytes, or nothing when there has to be more input."""
        while self._input:
            if self._inner.eof:  # gzip may have several members, one after the other
                self._inner = zlib.decompressobj(self._wbits)
            data = self._decode()
            if data:
                return data
        return b""

    def _decode(self) -> bytes:
        if not self._has_begun and self._wbits == _DEFLATE and self._input[0] & 0x0F != 8:
            self._inner = zlib.decompressobj(-_DEFLATE)  # "deflate" without zlib's header
        self._has_begun = True
        try:
            data = self._inner.decompress(self._input, STEP)
        except zlib.error:
            raise CannotDecode("the encoding is broken") from None
        self._input = self._inner.unconsumed_tail or self._inner.unused_data
        return data

    def finish(self) -> None:
        """Everything has been fed and read."""
        if self._has_begun and not self._inner.eof:
            raise CannotDecode("the encoding ends too early")
