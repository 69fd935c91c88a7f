"""Whether a client prefers JSON, and the cost of parsing `Accept`."""

import pytest

from pulpcore.content_star.listings.negotiation import (
    MAX_BYTES,
    MAX_PARTS,
    _prefers_json,
    prefers_json,
)


def preference(*accept: bytes) -> bool:
    return prefers_json({"headers": [(b"accept", value) for value in accept]})


@pytest.fixture(autouse=True)
def empty_cache():
    _prefers_json.cache_clear()


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        (b"application/json", True),
        (b"Application/JSON", True),
        (b"application/json;q=0.9, text/html;q=0.8", True),
        (b"application/*", True),
        (b"text/html, application/json", False),
        (b"*/*", False),
        (b"", False),
        (b";q=x,,/,*", False),
        (b"application/json, " + b"a/b, " * (MAX_PARTS - 2) + b"a/b", True),
    ],
)
def test_accept_ranks_json_above_text(accept, json):
    assert preference(accept) is json


def test_lines_of_accept_are_one_list():
    assert preference(b"a/b", b"application/json") is True
    assert preference(b"text/html;q=0.5", b"application/json") is True
    assert preference(b"application/json;q=0.5", b"text/html") is False
    assert preference(*[b"application/json"] * (MAX_PARTS + 1)) is False


def test_no_accept_is_no_preference():
    assert preference() is False


@pytest.mark.parametrize(
    "accept",
    [
        b"application/json, " + b"a/b, " * MAX_PARTS,
        b"application/json" + b";" * MAX_PARTS,
        b"application/json" + b";x=y" * MAX_PARTS,
        b"application/json" + b" " * MAX_BYTES,
        b"application/json," + b"a/b;q=0.5," * 100_000,
    ],
)
def test_long_or_many_membered_accept_is_no_preference(accept):
    assert preference(accept) is False


def test_long_accept_is_not_kept():
    for number in range(300):
        preference(b"a" * (MAX_BYTES + 1) + str(number).encode())
    assert _prefers_json.cache_info().currsize == 0


def test_accept_is_decided_once_a_request():
    scope = {"headers": [(b"accept", b"application/json")]}
    assert prefers_json(scope)
    scope["headers"].clear()
    assert prefers_json(scope)
