"""Decoding of Content-Encoding in chunks."""

import gzip
import random
import zlib

import pytest

from pulpcore.content_star.remote.decoding import RATIO_FREE, Decoder, check_ratio
from pulpcore.content_star.remote.errors import CannotDecode
from pulpcore.content_star.responses.source import CHUNK_SIZE

ZEROS = bytes(3 * CHUNK_SIZE)
MIXED = random.Random(1).randbytes(100_000) + ZEROS


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def decode(encoding: str, encoded: bytes, size: int) -> bytes:
    """Decode what comes in chunks of `size` bytes."""
    decoder = Decoder(encoding)
    pieces = []
    for start in range(0, len(encoded), size):
        decoder.feed(encoded[start : start + size])
        while piece := decoder.read():
            pieces.append(piece)
    decoder.finish()
    assert max(map(len, pieces), default=0) <= CHUNK_SIZE
    return b"".join(pieces)


@pytest.mark.parametrize("size", [1, 7, 1000, 16 * 1024, 16 * 1024 + 1, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"x", ZEROS, ZEROS[:-1], ZEROS + b"x", MIXED], ids=len)
def test_content_encoding_is_decoded_for_chunks_of_any_size(data, size):
    if len(data) > 100_000 and size == 1:
        data = data[-100_000:]
    assert decode("gzip", gzip.compress(data), size) == data
    assert decode("deflate", zlib.compress(data), size) == data
    assert decode("deflate", raw_deflate(data), size) == data


@pytest.mark.parametrize("size", [10, 16 * 1024, 1 << 20])
def test_gzip_of_many_members_is_one_file(size):
    members = [b"", b"a", b"", ZEROS, b"b"] + [b"c"] * 3000
    assert decode("gzip", b"".join(map(gzip.compress, members)), size) == b"".join(members)


@pytest.mark.parametrize("encoding", ["zstd", "br", "compress", "gzip, gzip", ""])
def test_unknown_content_encoding_raises_cannot_decode(encoding):
    with pytest.raises(CannotDecode):
        Decoder(encoding)


def test_decompression_bomb_raises_cannot_decode():
    check_ratio(1, RATIO_FREE)
    check_ratio(RATIO_FREE, 100 * RATIO_FREE)
    with pytest.raises(CannotDecode, match="more than 100 times"):
        check_ratio(1, RATIO_FREE + 1)
    with pytest.raises(CannotDecode):
        check_ratio(RATIO_FREE, 100 * RATIO_FREE + 1)
