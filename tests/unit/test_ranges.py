"""Range header (RFC 9110 section 14), and where Pulp returns 416."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulpcore.content_star.responses.ranges import (
    MAX_RANGES,
    ByteRange,
    RangeNotSatisfiable,
    parse_ranges,
)


def parse(header: str, size: int) -> list[tuple[int, int]] | None:
    ranges = parse_ranges(header, size)
    return None if ranges is None else [(part.start, part.stop) for part in ranges]


# The examples of 14.1.2, for a representation of 10,000 bytes, and their neighbours.
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-499", [(0, 500)]),
        ("bytes=500-999", [(500, 1000)]),
        ("bytes=-500", [(9500, 10000)]),
        ("bytes=9500-", [(9500, 10000)]),
        ("bytes=0-0,-1", [(0, 1), (9999, 10000)]),
        ("bytes= 0-999, 4500-5499, -1000", [(0, 1000), (4500, 5500), (9000, 10000)]),
        # 500-600 and 601-999 are adjacent, 500-700 and 601-999 overlap: "several legal (but not
        # canonical) specifications of the second 500 bytes".
        ("bytes=500-600,601-999", [(500, 1000)]),
        ("bytes=500-700,601-999", [(500, 1000)]),
        ("bytes=0-", [(0, 10000)]),
        ("bytes=0-9999", [(0, 10000)]),
        ("bytes=0-10000", [(0, 10000)]),
        ("bytes=9999-9999", [(9999, 10000)]),
        ("bytes=9999-99999", [(9999, 10000)]),
        ("bytes=-10000", [(0, 10000)]),
        ("bytes=-10001", [(0, 10000)]),
        ("bytes=-" + "9" * 5000, [(0, 10000)]),
        ("bytes=1-" + "9" * 5000, [(1, 10000)]),
        ("bytes=" + "0" * 5000 + "1-2", [(1, 3)]),
        # Tolerated: case, white space, empty members.
        ("Bytes=0-1", [(0, 2)]),
        ("BYTES=0-1", [(0, 2)]),
        (" bytes = 0 - 1 ", [(0, 2)]),
        ("bytes=\t0-1\t,\t4-5", [(0, 2), (4, 6)]),
        ("bytes=,0-1,,4-5,", [(0, 2), (4, 6)]),
        # The client's order stays.
        ("bytes=4-5,0-1", [(4, 6), (0, 2)]),
        ("bytes=4-5,2-4", [(2, 6)]),
        ("bytes=0-9,3-4", [(0, 10)]),
        # What lies outside is dropped if something lies inside.
        ("bytes=10000-,0-1", [(0, 2)]),
        ("bytes=0-1,10000-20000", [(0, 2)]),
        ("bytes=-0,0-1", [(0, 2)]),
    ],
)
def test_range_of_a_file_of_ten_thousand_bytes(header: str, expected: list[tuple[int, int]]):
    assert parse(header, 10000) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "items=0-1",
        "foo",
        "foo=",
        "=0-1",
        "bytesx=0-1",
        "by tes=0-1",
        "b\xfftes=0-1",
        "seconds=a",
    ],
)
def test_range_in_other_units_is_ignored(header: str):
    assert parse(header, 100) is None


@pytest.mark.parametrize(
    "header",
    [
        # pulpcore 3052: a negative start.
        "bytes=-1-11",
        "bytes=--1",
        # pulpcore 3054: a start beyond the end.
        "bytes=100-",
        "bytes=100-200",
        "bytes=101-",
        "bytes=" + "9" * 5000 + "-",
        "bytes=" + "9" * 5000 + "-" + "9" * 5000,
        "bytes=-0",
        "bytes=-000",
        "bytes=100-,200-,-0",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=1",
        "bytes=a-b",
        "bytes=1-b",
        "bytes=0x1-2",
        "bytes=1.0-2",
        "bytes=+1-2",
        "bytes=2-1",
        "bytes=1-0",
        "bytes=200-100",
        "bytes=0-1-2",
        "bytes=0-1;2-3",
        "bytes=0 0-1",
        "bytes=0-1,2-1",
        "bytes=0-1,x",
        "bytes==0-1",
        "bytes=\xb2-\xb3",
        "bytes=\u0661-\u0662",
    ],
)
def test_range_that_is_invalid_or_beyond_the_end_returns_416(header: str):
    with pytest.raises(RangeNotSatisfiable) as refusal:
        parse_ranges(header, 100)
    assert refusal.value.size == 100
    assert refusal.value.content_range == "bytes */100"


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-0", "bytes=1-"])
def test_range_of_an_empty_file_returns_416(header: str):
    with pytest.raises(RangeNotSatisfiable):
        parse_ranges(header, 0)


@pytest.mark.parametrize("header", ["bytes=-1", "bytes=-500", "bytes=0-,-1"])
def test_range_suffix_of_an_empty_file_returns_the_whole(header: str):
    assert parse(header, 0) is None


def test_ranges_of_more_than_the_file_return_the_whole():
    assert parse("bytes=0-,0-", 100) is None
    assert parse("bytes=0-99,0-0", 100) is None
    assert parse("bytes=0-49,50-99", 100) == [(0, 100)]
    assert parse("bytes=50-99,0-49", 100) == [(0, 100)]


def test_ranges_over_the_limit_return_the_whole():
    def ask(count: int) -> str:
        return "bytes=" + ",".join(f"{10 * part}-{10 * part}" for part in range(count))

    assert len(parse(ask(MAX_RANGES), 100_000) or []) == MAX_RANGES
    assert parse(ask(MAX_RANGES + 1), 100_000) is None


def test_content_range_is_inclusive():
    assert ByteRange(0, 500).content_range(1234) == "bytes 0-499/1234"
    assert len(ByteRange(21010, 47022)) == 26012


positions = st.integers(0, 60)


@given(positions, positions, st.integers(0, 50))
def test_range_is_the_slice_of_its_positions(first: int, last: int, size: int):
    wanted = [position for position in range(size) if first <= position <= last]
    try:
        ranges = parse(f"bytes={first}-{last}", size)
    except RangeNotSatisfiable:
        assert wanted == []
    else:
        assert ranges is not None
        assert [position for part in ranges for position in range(*part)] == wanted


specifiers = st.builds("{}-{}".format, positions | st.just(""), positions | st.just(""))


@given(st.lists(specifiers, max_size=6).map(",".join), st.integers(0, 50))
def test_ranges_are_coalesced_in_their_order(specifiers: str, size: int):
    try:
        ranges = parse_ranges(f"bytes={specifiers}", size)
    except RangeNotSatisfiable:
        return
    if ranges is None:
        return
    asked = set()
    for specifier in specifiers.split(","):
        first, _, last = specifier.partition("-")
        if first:
            asked.update(range(int(first), int(last or 99) + 1))
        elif last:
            asked.update(range(size - int(last), size))
    sent = [position for part in ranges for position in range(part.start, part.stop)]
    assert set(sent) == asked & set(range(size))
    assert len(sent) <= size
    assert all(0 <= part.start < part.stop <= size for part in ranges)
    assert all(one.stop < other.start or other.stop < one.start for one, other in pairwise(ranges))


@given(
    st.binary(max_size=60) | st.text("bytes=0123456789-, \t", max_size=40).map(str.encode),
    st.integers(0, 10**12),
)
def test_range_of_any_text_raises_nothing_else(header: bytes, size: int):
    for value in (header.decode("latin-1"), "bytes=" + header.decode("latin-1")):
        try:
            ranges = parse_ranges(value, size)
        except RangeNotSatisfiable:
            continue
        assert ranges is None or all(0 <= part.start < part.stop <= size for part in ranges)


@pytest.mark.parametrize("unit", [" ", "0", "-", "0-", "\t0 ", "9-9 "])
def test_range_of_any_length_is_parsed_in_linear_time(unit: str):
    with pytest.raises(RangeNotSatisfiable):
        parse_ranges("bytes=" + unit * 300_000 + "x", 100)
