"""gzip negotiation, and gzip streams made of deflated blocks."""

import gzip

import pytest

from pulpcore.content_star.responses.text import GzipText, PlainText, accepts_gzip, deflate


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("GZip;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=nonsense", False),
        ("gzip;q=nan", False),
        ("notgzip, gzipped", False),
        ("br," * 100_000 + "gzip", False),
    ],
)
def test_accept_encoding_decides_about_gzip(value, accepted):
    scope = {"type": "http", "headers": [(b"accept-encoding", value.encode())]}
    assert accepts_gzip(scope) is accepted


def test_no_accept_encoding_is_no_gzip():
    assert not accepts_gzip({"type": "http", "headers": [(b"accept", b"gzip")]})


@pytest.mark.parametrize("parts", [[], [b""], [b"one"], [b"one" * 9999, b"", b"two" * 9999]])
def test_gzip_text_of_blocks_is_one_stream_of_its_length(parts):
    blocks = [deflate(part) for part in parts]
    sizes = sum(map(len, parts)), sum(map(len, blocks))
    for kind, read in ((PlainText, bytes), (GzipText, gzip.decompress)):
        text = kind(b"head", b"tail")
        length = text.length(*sizes)
        body = b"".join([text.head, *map(text.block, blocks), text.end()])
        assert read(body) == b"".join([b"head", *parts, b"tail"])
        assert len(body) == length
