"""Preconditions (RFC 9110 section 13), case by case."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from pulpcore.content_star.responses.conditional import (
    MAX_TAGS_LENGTH,
    Validators,
    evaluate,
    if_range_matches,
)

# The moment of the RFC's own examples (5.6.7), in its three notations.
MOMENT = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
SAME = "Sun, 06 Nov 1994 08:49:37 GMT"
SAME_RFC850 = "Sunday, 06-Nov-94 08:49:37 GMT"
SAME_ASCTIME = "Sun Nov  6 08:49:37 1994"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
NOT_DATES = ("", "yesterday", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 32 Nov 1994 08:49:37 GMT", "0")

VALIDATORS = Validators('"xyzzy"', MOMENT)
UNDATED = Validators('"xyzzy"', None)


def headers(*lines: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in lines])


def decide(*lines: tuple[str, str], method: str = "GET", validators: Validators = VALIDATORS):
    return evaluate(method, headers(*lines), validators)


def test_request_without_conditions_is_unconditional():
    assert decide() is None
    assert decide(("accept", "*/*"), ("range", "bytes=0-1")) is None


MATCHING_LISTS = [
    '"xyzzy"',
    ' "xyzzy" ',
    '"r2d2xxxx", "xyzzy", "c3piozzzz"',
    '"r2d2xxxx","xyzzy"',
    ',, "xyzzy",',
    '"with, comma", "xyzzy"',
    'unquoted, "xyzzy"',
    'W/"other", "xyzzy"',
    '"unclosed, "xyzzy"',
    '"\xe9\xff", "xyzzy"',
    "*",
]
OTHER_LISTS = [
    "",
    '""',
    "xyzzy",
    "'xyzzy'",
    '"xyzzy',
    'xyzzy"',
    '"Xyzzy"',
    '"xyzzy "',
    '"xyzzy"tail',
    'w/"xyzzy"',
    '*, "other"',
    "**",
    ",",
]


@pytest.mark.parametrize("value", MATCHING_LISTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_match_and_if_none_match_with_the_etag(method: str, value: str):
    assert decide(("if-match", value), method=method) is None
    assert decide(("if-none-match", value), method=method) == 304


@pytest.mark.parametrize("value", OTHER_LISTS)
def test_if_match_and_if_none_match_with_another_etag(value: str):
    assert decide(("if-match", value)) == 412
    assert decide(("if-none-match", value)) is None


def test_weak_etag_matches_by_weak_comparison_only():
    assert decide(("if-match", 'W/"xyzzy"')) == 412
    assert decide(("if-none-match", 'W/"xyzzy"')) == 304


def test_if_none_match_returns_412_for_other_methods():
    assert decide(("if-none-match", '"xyzzy"'), method="PUT") == 412
    assert decide(("if-none-match", "*"), method="PUT") == 412
    assert decide(("if-none-match", '"other"'), method="PUT") is None


def test_etag_list_in_several_header_lines():
    assert decide(("if-none-match", '"a"'), ("if-none-match", '"xyzzy"')) == 304
    assert decide(("if-match", '"a"'), ("if-match", '"xyzzy"')) is None
    assert decide(("if-match", '"a"'), ("if-match", '"b"')) == 412


@pytest.mark.parametrize("same", [SAME, SAME_RFC850, SAME_ASCTIME, f"  {SAME} "])
def test_if_modified_since_in_each_date_format(same: str):
    assert decide(("if-modified-since", same)) == 304
    assert decide(("if-unmodified-since", same)) is None


def test_if_modified_since_around_the_modification():
    assert decide(("if-modified-since", EARLIER)) is None
    assert decide(("if-modified-since", LATER)) == 304
    assert decide(("if-unmodified-since", EARLIER)) == 412
    assert decide(("if-unmodified-since", LATER)) is None


def test_last_modified_ignores_fractions_of_a_second():
    validators = Validators('"xyzzy"', MOMENT + timedelta(microseconds=999_999))
    assert decide(("if-modified-since", SAME), validators=validators) == 304
    assert decide(("if-unmodified-since", SAME), validators=validators) is None
    assert if_range_matches(headers(("if-range", SAME)), validators)


def test_last_modified_in_other_time_zones():
    elsewhere = Validators('"xyzzy"', datetime.fromisoformat("1994-11-06T10:49:37+02:00"))
    assert decide(("if-modified-since", SAME), validators=elsewhere) == 304
    assert decide(("if-modified-since", EARLIER), validators=elsewhere) is None


@pytest.mark.parametrize("value", [*NOT_DATES, f"{EARLIER}, {EARLIER}"])
def test_invalid_date_is_ignored(value: str):
    assert decide(("if-modified-since", value)) is None
    assert decide(("if-unmodified-since", value)) is None


@pytest.mark.parametrize("zone", ["GMT", "UTC", "+0000", "-0000", "Z", ""])
def test_if_modified_since_in_any_name_of_utc_returns_304(zone: str):
    value = SAME.replace("GMT", zone).strip()
    assert decide(("if-modified-since", value)) == 304
    assert decide(("if-unmodified-since", value)) is None
    assert if_range_matches(headers(("if-range", value)), VALIDATORS)


def test_two_dates_are_ignored():
    assert decide(("if-modified-since", LATER), ("if-modified-since", LATER)) is None
    assert decide(("if-unmodified-since", EARLIER), ("if-unmodified-since", EARLIER)) is None


def test_if_modified_since_is_ignored_without_last_modified():
    assert decide(("if-modified-since", LATER), validators=UNDATED) is None
    assert decide(("if-unmodified-since", EARLIER), validators=UNDATED) is None
    assert not if_range_matches(headers(("if-range", SAME)), UNDATED)


def test_if_modified_since_is_for_get_and_head():
    assert decide(("if-modified-since", LATER), method="POST") is None


# 13.2.2: the order of evaluation, and what hides what.
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([("if-match", '"xyzzy"'), ("if-unmodified-since", EARLIER)], None),
        ([("if-match", '"other"'), ("if-unmodified-since", LATER)], 412),
        ([("if-match", '"other"'), ("if-none-match", '"xyzzy"')], 412),
        ([("if-match", '"xyzzy"'), ("if-none-match", '"xyzzy"')], 304),
        ([("if-match", '"xyzzy"'), ("if-modified-since", LATER)], 304),
        ([("if-unmodified-since", EARLIER), ("if-none-match", '"xyzzy"')], 412),
        ([("if-unmodified-since", LATER), ("if-none-match", '"xyzzy"')], 304),
        ([("if-none-match", '"other"'), ("if-modified-since", LATER)], None),
        ([("if-none-match", '"xyzzy"'), ("if-modified-since", EARLIER)], 304),
        ([("if-none-match", "garbage"), ("if-modified-since", LATER)], None),
    ],
)
def test_etag_conditions_precede_date_conditions(
    lines: list[tuple[str, str]], expected: int | None
):
    assert decide(*lines) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"xyzzy"', True),
        (' "xyzzy" ', True),
        (SAME, True),
        (SAME_RFC850, True),
        (SAME_ASCTIME, True),
        ('W/"xyzzy"', False),
        ('"other"', False),
        ('"other", "xyzzy"', False),
        ("xyzzy", False),
        ("*", False),
        # An exact match: not "not modified since" (13.1.5).
        (EARLIER, False),
        (LATER, False),
        *((value, False) for value in NOT_DATES),
    ],
)
def test_if_range_matches_etag_or_date(value: str, expected: bool):
    assert if_range_matches(headers(("if-range", value)), VALIDATORS) is expected


def test_if_range_missing_or_repeated():
    assert if_range_matches(headers(), VALIDATORS)
    twice = headers(("if-range", '"xyzzy"'), ("if-range", '"xyzzy"'))
    assert not if_range_matches(twice, VALIDATORS)


tags = st.tuples(st.booleans(), st.sampled_from(["xyzzy", "a", "a,b", "", "W/"]))


@given(st.lists(tags, min_size=1), st.sampled_from([",", ", ", " , ", ",,"]))
def test_etag_lists_match_their_grammar(members: list[tuple[bool, str]], separator: str):
    value = separator.join(("W/" if weak else "") + f'"{opaque}"' for weak, opaque in members)
    weakly = any(opaque == "xyzzy" for _, opaque in members)
    strongly = any(opaque == "xyzzy" and not weak for weak, opaque in members)
    assert decide(("if-none-match", value)) == (304 if weakly else None)
    assert decide(("if-match", value)) == (None if strongly else 412)


NAMES = [b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range"]
alphabet = st.lists(
    st.sampled_from(
        [b'"', b"W/", b",", b" ", b"*", b"xyzzy", b"GMT", b"\xff", b"\x00", SAME.encode()]
    )
).map(b"".join)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=40) | alphabet)))
def test_any_condition_is_evaluated_without_error(raw: list[tuple[bytes, bytes]]):
    received = Headers(raw=raw)
    assert evaluate("GET", received, VALIDATORS) in (None, 304, 412)
    assert if_range_matches(received, VALIDATORS) in (True, False)


@pytest.mark.parametrize("unit", ['"', '",', 'W/"', ",", '" "', "W/", " ", '"a" ', '" ,'])
def test_etag_list_of_any_length_is_parsed_in_linear_time(unit: str):
    """Each would take minutes if the time to read it grew with the square of its length."""
    value = unit * (1_000_000 // len(unit))
    assert decide(("if-none-match", value)) is None
    assert decide(("if-match", value)) == 412


def test_etag_list_over_the_limit_matches_nothing():
    for length, matches in ((MAX_TAGS_LENGTH, True), (MAX_TAGS_LENGTH + 1, False)):
        value = '"xyzzy"'.rjust(length, ",")
        assert decide(("if-none-match", value)) == (304 if matches else None)
        assert decide(("if-match", value)) == (None if matches else 412)
    lines = [("if-none-match", '"a"')] * 3000
    assert decide(*lines, ("if-none-match", '"xyzzy"')) is None, "nor one of many lines"
