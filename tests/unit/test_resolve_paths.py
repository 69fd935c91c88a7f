"""Content paths of URLs: decoding, domains and base path prefixes."""

import pytest
from django.test import override_settings
from starlette.exceptions import HTTPException

from pulpcore.content_star.resolve.paths import (
    BASE_PATH_SEGMENTS,
    MAX_BASE_PATH_LENGTH,
    ContentPath,
    decoded_path,
    parse_content_path,
    prefixes,
)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/pulp/content/a", "/pulp/content/a"),
        (b"/a%20b", "/a b"),
        (b"/%40scope%2Fname", "/@scope/name"),
        (b"/%E6%97%A5", "/日"),
        ("/日".encode(), "/日"),
        (b"/100%", "/100%"),
        (b"/a+b", "/a+b"),
        (b"/%252F", "/%2F"),
    ],
)
def test_path_is_percent_decoded_once(raw, path):
    assert decoded_path({"raw_path": raw, "path": "ignored"}) == path


def test_path_without_raw_path_is_decoded():
    assert decoded_path({"path": "/a b/100%/日"}) == "/a b/100%/日"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"/%ff", 400),
        (b"/\xff", 400),
        (b"/%C3%28", 400),
        (b"/%00", 400),
        (b"/\0", 400),
        (b"/" + b"a" * 8190, 414),
    ],
)
def test_path_that_is_invalid_returns_400_or_414(raw, status):
    with pytest.raises(HTTPException) as refused:
        decoded_path({"raw_path": raw, "path": ""})
    assert refused.value.status_code == status


def test_path_without_domains_is_of_the_default_domain():
    assert parse_content_path("a/b/") == ContentPath("default", "a/b/")
    assert parse_content_path("") == ContentPath("default", "")


@override_settings(DOMAIN_ENABLED=True)
def test_path_with_domains_begins_with_the_domain():
    assert parse_content_path("a/b/") == ContentPath("a", "b/")
    assert parse_content_path("a") == ContentPath("a", "")
    for path in ("", "/b"):
        with pytest.raises(HTTPException) as refused:
            parse_content_path(path)
        assert refused.value.status_code == 404


@pytest.mark.parametrize(
    ("path", "possible"),
    [
        ("", set()),
        ("a", {"a"}),
        ("a/", {"a"}),
        ("a/b/c.rpm", {"a", "a/b", "a/b/c.rpm"}),
        ("/a/b", {"/a", "/a/b"}),
    ],
)
def test_base_path_prefixes_are_whole_segments(path, possible):
    # A base path never ends in a slash: that such prefixes are asked for too does no harm.
    assert {prefix for prefix in prefixes(path) if not prefix.endswith("/")} == possible


@pytest.mark.parametrize("path", ["a/" * 100_000, "/" * 2700, "ab/" * 900, ("x" * 2000 + "/") * 4])
def test_base_path_prefixes_are_limited(path):
    found = prefixes(path)
    assert max(map(len, found)) <= MAX_BASE_PATH_LENGTH
    assert len(found) <= BASE_PATH_SEGMENTS
