"""Normalization of content paths."""

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.types import Scope
from url_normalize import url_normalize

from pulpcore.content_star.middleware.normalize_path import MAX_QUERY_BYTES, NormalizePath
from pulpcore.content_star.resolve.paths import decoded_path

PREFIX = "/pulp/content/"


def normalize(raw: str, root_path: str = "", query: bytes = b"") -> Scope:
    async def app(scope, receive, send):
        raise AssertionError

    scope = {
        "type": "http",
        "path": "only raw_path counts",
        "raw_path": raw.encode("latin-1"),
        "root_path": root_path,
        "query_string": query,
    }
    return NormalizePath(app, PREFIX).normalized(scope)


def refusal_of(raw: str, **options: object) -> int:
    with pytest.raises(HTTPException) as refused:
        normalize(raw, **options)
    return refused.value.status_code


@pytest.mark.parametrize(
    ("raw", "normalized"),
    [
        ("a/./b", "a/b"),
        ("./a", "a"),
        ("a/.", "a/"),
        ("a/%2e/b", "a/b"),
        ("a/%2E", "a/"),
        (".", ""),
        ("a/../b", "b"),
        ("a/..", ""),
        ("a/b/..", "a/"),
        ("a/b/../", "a/"),
        ("a/%2e%2e/b", "b"),
        ("a/.%2E/b", "b"),
        ("a/%2e./b", "b"),
        ("a/b/../../c", "c"),
        ("a//b", "a/b"),
        ("a///b//", "a/b/"),
        ("/a", "a"),
        ("/", ""),
        ("a/%2Fb", "a/b"),
        ("a%2f%2fb", "a/b"),
        ("a%2F/", "a/"),
        # Slashes first: as nginx, and as the guards that sign.
        ("a//../b", "b"),
        ("a/.//./b", "a/b"),
        ("a%20b/./%C3%A9", "a b/é"),
    ],
)
def test_dot_segments_and_repeated_slashes_are_removed(raw, normalized):
    scope = normalize(PREFIX + raw)
    assert decoded_path(scope) == scope["path"] == PREFIX + normalized


@pytest.mark.parametrize(
    "raw",
    [
        "a/b",
        "a/",
        "",
        "...",
        ".a/..b/c.",
        "a..",
        "%2e%2ea",
        "@scope%2Fname",
        "a%252e/%252e%252e",
        "%",
    ],
)
def test_normalized_path_keeps_the_scope(raw):
    scope = normalize(PREFIX + raw)
    assert scope["path"] == "only raw_path counts"
    assert scope["raw_path"] == (PREFIX + raw).encode()


@pytest.mark.parametrize(
    "raw", ["../a", "..", "%2e%2e/a", "./../a", "a/../../a", "//../a", "a/../../content/a"]
)
def test_dot_segments_above_the_content_prefix_are_refused_with_400(raw):
    assert refusal_of(PREFIX + raw) == 400
    assert refusal_of("/mounted" + PREFIX + raw, root_path="/mounted") == 400


@override_settings(DOMAIN_ENABLED=True)
def test_dot_segments_do_not_leave_the_domain():
    assert normalize(f"{PREFIX}domain/a/../b")["path"] == f"{PREFIX}domain/b"
    assert normalize(f"{PREFIX}domain/a/..")["path"] == f"{PREFIX}domain/"
    assert normalize(f"{PREFIX}./domain//a")["path"] == f"{PREFIX}domain/a"
    for raw in ("domain/../other/a", "domain/..", "domain/a/../../other/a", "../domain/a"):
        assert refusal_of(PREFIX + raw) == 400, raw


@pytest.mark.parametrize(
    "raw", ["a%2F../b", "a%2f..%2fb", "x%2Fy/../b", "a%2F./b", "..%2Fb", "a%2f%2e%2e/b", "%2F../b"]
)
def test_dot_segments_beside_an_encoded_slash_are_refused_with_400(raw):
    """Some take it for the end of a segment, some for a part of one."""
    assert refusal_of(PREFIX + raw) == 400


@pytest.mark.parametrize(
    "path", ["/pulp/x/../content/a", "/v2/./a", "/v2/%2e%2e/a", "/pulp/content/../a"]
)
def test_dot_segments_outside_of_content_are_refused_with_400(path):
    assert refusal_of(path) == 400


def test_slashes_outside_of_content_stay_as_they_are():
    for path in ("//pulp/content/a", "/pulp//content/a", "/v2//a", "/v2%2F%2Fa"):
        assert normalize(path)["raw_path"] == path.encode()


def test_query_over_the_limit_returns_414():
    normalize(PREFIX, query=b"a" * MAX_QUERY_BYTES)
    assert refusal_of(PREFIX, query=b"a" * (MAX_QUERY_BYTES + 1)) == 414


def test_long_paths_return_414():
    assert refusal_of(PREFIX + "a/./" * 3000) == 414


PARTS = st.sampled_from(
    ["/", "//", ".", "..", "%2e", "%2E%2e", "%2F", "%2f", "a", "b", "c%20d", "%2"]
)


@given(st.lists(PARTS, max_size=12).map("".join))
def test_signature_of_a_redirect_guard_is_valid_for_one_file(tail):
    """It signs what `url_normalize` makes of a URL, so that spellings of one URL share a signature.

    Either they are spellings of one path here too, or they are refused.
    """
    signed = url_normalize(f"http://pulp{PREFIX}{tail}").removeprefix("http://pulp")
    try:
        served = normalize(PREFIX + tail)
    except HTTPException:
        return
    assert decoded_path(served) == decoded_path(normalize(signed))
    if "%2F" not in signed:  # merged here, and left by `url_normalize`: such a signature is void
        seen = url_normalize(f"http://pulp{served['raw_path'].decode()}")
        assert seen == f"http://pulp{signed}"
