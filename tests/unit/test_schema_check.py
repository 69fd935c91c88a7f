"""The check of the tests' HTTP client against the OpenAPI document."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support import schema_check
from tests.support.schema_check import check, check_body

JSON = {"Content-Type": "application/json"}
PLUGIN = {
    **dict.fromkeys(("label", "app", "package", "version", "why"), "x"),
    "served": "native",
    "reports": [],
    "ends_with": None,
    "prefixes": [],
    "problem": None,
}
READY = {"ready": True, "problem": None, "cache": "enabled", "plugins": [PLUGIN]}


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
        ("base/file", "GET", response_of(200, ETag="no quotes")),
        ("base/file", "GET", response_of(200, **{"Content-Length": "-1"})),
        ("base/file", "GET", response_of(200, **{"X-Pulp-Cache": "STALE"})),
        ("base/dir/", "GET", response_of(404, **{"Content-Type": "image/png"})),
        ("base/file", "GET", response_of(304, **{"Content-Type": "text/plain"})),
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


def body_of(path: str, body: object) -> httpx.Response:
    request = httpx.Request("GET", f"http://pulp/pulp/content/{path}")
    return httpx.Response(200, headers={"Server": "uvicorn"}, json=body, request=request)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("readyz", READY),
        ("base/", {"path": "/pulp/content/base/", "entries": [], "next": None}),
        ("base/file", {"any": "file"}),
        ("base/file?checksum=md5", {"name": "file", "algorithm": "md5", "digest": "0"}),
    ],
)
def test_schema_check_accepts_json_of_the_schema(path, body):
    check_body(body_of(path, body))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("readyz", READY | {"more": 1}),
        ("readyz", READY | {"plugins": [PLUGIN | {"more": 1}]}),
        ("readyz", READY | {"ready": "yes"}),
        ("readyz", {"ready": True}),
        ("base/", {"any": "file"}),
        ("base/?use", {"any": "file"}),
        ("base/file?info", {"any": "file"}),
        ("base/file?checksum=md5", {"name": "file"}),
    ],
)
def test_schema_check_fails_for_json_that_is_not_of_the_schema(path, body):
    with pytest.raises(AssertionError, match="in its Content"):
        check_body(body_of(path, body))


@pytest.mark.parametrize("is_async", [False, True])
def test_schema_check_looks_at_json_that_a_client_reads(is_async):
    """Whether it reads at once or later."""

    def respond(request: httpx.Request) -> httpx.Response:
        body = b'{"ready": true}'
        stream = httpx.ByteStream(body)
        return httpx.Response(200, headers={"Server": "uvicorn", **JSON}, stream=Chunks(stream))

    transport = httpx.MockTransport(respond)
    url = "http://pulp/pulp/content/readyz"
    with pytest.raises(AssertionError, match="ContentReadiness"):
        if is_async:
            asyncio.run(async_get(transport, url))
        else:
            httpx.Client(transport=transport).get(url)


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is not read with the head."""

    def __init__(self, body: httpx.ByteStream) -> None:
        self.body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.body)


async def async_get(transport: httpx.AsyncBaseTransport, url: str) -> None:
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get(url)
