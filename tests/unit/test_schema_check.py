"""The check of the tests' HTTP client against the OpenAPI document."""

import httpx
import pytest

from tests.support import schema_check
from tests.support.schema_check import check


def response_of(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={"Server": "uvicorn", **headers})


@pytest.mark.parametrize(
    ("path", "method", "response"),
    [
        ("base/file", "GET", response_of(200, ETag='"x"', Date="now")),
        ("base/dir/", "GET", response_of(304, ETag='"x"')),
        ("livez", "HEAD", response_of(200)),
        ("base/file", "OPTIONS", response_of(200, Allow="GET")),
        ("base/file", "POST", response_of(405, Allow="GET")),
        ("base/file", "GET", httpx.Response(418, headers={"Server": "other"})),
    ],
)
def test_schema_check_accepts_responses_that_the_document_has(path, method, response):
    check(httpx.Request(method, f"http://pulp/pulp/content/{path}"), response)


@pytest.mark.parametrize(
    ("path", "method", "response"),
    [
        ("base/file", "GET", response_of(418)),
        ("base/file", "POST", response_of(200)),
        ("base/file", "GET", response_of(200, Unheard="of")),
        ("base/file", "GET", response_of(304, Allow="GET")),
        ("livez", "GET", response_of(200, ETag='"x"')),
        ("", "GET", response_of(206)),
    ],
)
def test_schema_check_fails_for_responses_that_the_document_lacks(path, method, response):
    with pytest.raises(AssertionError, match="OpenAPI document has not"):
        check(httpx.Request(method, f"http://pulp/pulp/content/{path}"), response)


def test_schema_check_is_not_paused_after_an_error():
    was_paused = list(schema_check._paused)
    with pytest.raises(OSError, match="refused"), schema_check.paused():
        raise OSError("refused")
    assert schema_check._paused == was_paused
