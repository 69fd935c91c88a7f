"""Cursors of listings and the queries of their URLs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pulpcore.content_star.listings.pagination import make_cursor, next_query, read_cursor

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(names)
def test_cursor_round_trips_through_a_url(name):
    cursor = make_cursor(name)
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    assert read_cursor(cursor) == name


@given(st.text())
def test_cursor_that_is_invalid_returns_400(text):
    try:
        name = read_cursor(text)
    except HTTPException as refused:
        assert refused.status_code == 400
    else:
        assert "\0" not in name
        name.encode()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "cursor=PmE"),
        ("cursor=old", "cursor=PmE"),
        ("cursor", "cursor=PmE"),
        ("b=%2F+x&cursor=old&a=1&a=1", "b=%2F+x&a=1&a=1&cursor=PmE"),
        ("&&a=1&", "a=1&cursor=PmE"),
        ("xcursor=1", "xcursor=1&cursor=PmE"),
    ],
)
def test_next_page_url_keeps_the_query(query, expected):
    request = Request({"type": "http", "query_string": query.encode()})
    assert next_query(request, "a") == expected
