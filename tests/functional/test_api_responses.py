"""Responses of Django views as sent: Content-Length, headers and streams (issue 10, 29)."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from http.cookies import SimpleCookie

import httpx
import pytest
from django.db import connection
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse

from tests.support.instance import wait_until
from tests.support.raw_client import Raw
from tests.support.views import serving_views


def _with_length(length: object, content: object, status: int = 200) -> HttpResponse:
    response = HttpResponse(content, status=status)
    response["Content-Length"] = str(length)
    return response


def longer(request: HttpRequest) -> HttpResponse:
    """Return a response as pulp_container's to PUT of a manifest."""
    return _with_length(0, None, 201)


def longer_stream(request: HttpRequest) -> StreamingHttpResponse:
    response = StreamingHttpResponse(iter([b"01", b"2345", b"6789"]))
    response["Content-Length"] = "4"
    return response


def shorter(request: HttpRequest) -> HttpResponse:
    return _with_length(10, b"01234")


def invalid_length(request: HttpRequest) -> HttpResponse:
    return _with_length("many", b"01234")


def no_content(request: HttpRequest) -> HttpResponse:
    return _with_length(5, b"01234", 204)


def not_modified(request: HttpRequest) -> HttpResponse:
    return _with_length(5, b"01234", 304)


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"01234")


def hop_by_hop(request: HttpRequest) -> HttpResponse:
    headers = {"Transfer-Encoding": "chunked", "Connection": "close", "Keep-Alive": "timeout=1"}
    return HttpResponse(b"01234", headers=headers)


def control_character(request: HttpRequest) -> HttpResponse:
    return HttpResponse(headers={"X-Name": "a\x0bb"})


def headers(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(headers={"X-Name": "café", "X-Far": "名"})
    response.set_cookie("one", "1")
    response.set_cookie("two", "2")
    return response


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(io.BytesIO(bytes(range(256)) * 4096))


closed = threading.Event()


class Parts:
    """An iterator that records the threads it runs in, and that it was closed."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(3):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            self.threads.add(threading.get_ident())
            yield b"part "
        yield str(len(self.threads)).encode()

    def close(self) -> None:
        closed.set()


def stream(request: HttpRequest) -> StreamingHttpResponse:
    closed.clear()
    return StreamingHttpResponse(Parts())


def endless(request: HttpRequest) -> StreamingHttpResponse:
    closed.clear()

    def parts() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(10_000)
        finally:
            closed.set()

    return StreamingHttpResponse(parts())


async def asynchronous(request: HttpRequest) -> StreamingHttpResponse:
    await asyncio.sleep(0)

    async def parts() -> AsyncIterator[bytes]:
        for number in range(3):
            await asyncio.sleep(0)
            yield str(number).encode()

    return StreamingHttpResponse(parts())


async def endless_events(request: HttpRequest) -> StreamingHttpResponse:
    closed.clear()

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    return StreamingHttpResponse(parts())


VIEWS = (
    longer, longer_stream, shorter, invalid_length, no_content, not_modified, plain, hop_by_hop,
    control_character, headers, file, stream, endless, asynchronous, endless_events,
)  # fmt: skip


@pytest.fixture(scope="module")
def url(instance) -> Iterator[str]:
    with serving_views(*VIEWS) as url:
        yield url


def on_one_connection(url: str, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Request `path`, and another on the same connection; return the first response."""
    with Raw(url) as client:
        client.head(method, path)
        first = client.response() if method != "HEAD" else client.response("HEAD")
        body = first.read()
        client.head("GET", "/plain")
        assert client.response().read() == b"01234"
    return first.status, {name.lower(): value for name, value in first.getheaders()}, body


def test_response_longer_than_content_length_is_truncated(url, caplog):
    for _ in range(3):
        status, headers, body = on_one_connection(url, "GET", "/longer")
        assert (status, headers["content-length"], body) == (201, "0", b"")
    wait_until(lambda: caplog.records)
    assert [each.message for each in caplog.records if "tests.functional" in each.message] == [
        f"Response of {__name__}.longer is longer than its Content-Length and was truncated. "
        "Report it to the authors of the plugin; logged once per view."
    ]


def test_stream_longer_than_content_length_is_truncated(url):
    assert on_one_connection(url, "GET", "/longer_stream")[2] == b"0123"


def test_response_shorter_than_content_length_closes_the_connection(url, caplog):
    with Raw(url) as client:
        client.head("GET", "/shorter")
        answer = client.read_to_end()
    assert b"content-length: 10\r\n" in answer.lower()
    assert answer.endswith(b"\r\n\r\n01234")
    assert f"{__name__}.shorter is shorter" in caplog.text
    assert "Traceback" not in caplog.text


def test_content_length_that_is_invalid_is_dropped(url):
    _, headers, body = on_one_connection(url, "GET", "/invalid_length")
    assert (headers.get("content-length"), body) == (None, b"01234")


@pytest.mark.parametrize("path", ["/no_content", "/not_modified"])
def test_response_with_status_204_or_304_has_no_body(url, path):
    _, headers, body = on_one_connection(url, "GET", path)
    assert (headers.get("content-length"), body) == (None, b"")


@pytest.mark.parametrize("path", ["/plain", "/file", "/longer", "/stream"])
def test_head_returns_headers_and_no_body(url, path):
    assert on_one_connection(url, "HEAD", path)[2] == b""


def test_hop_by_hop_headers_of_views_are_dropped(url):
    _, headers, body = on_one_connection(url, "GET", "/hop_by_hop")
    assert body == b"01234"
    assert not headers.keys() & {"transfer-encoding", "connection", "keep-alive"}


def test_header_with_a_control_character_returns_500(url, caplog):
    assert on_one_connection(url, "GET", "/control_character")[0] == 500
    assert "X-Name" in caplog.text


def test_headers_beyond_ascii_and_cookies_are_encoded_as_by_django(url):
    response = httpx.get(f"{url}/headers")
    raw = dict(response.headers.raw)
    assert raw[b"x-name"] == "café".encode("latin-1")
    assert raw[b"x-far"] == b"=?utf-8?b?5ZCN?="
    cookies = SimpleCookie()
    for value in response.headers.get_list("set-cookie"):
        cookies.load(value)
    assert {name: each.value for name, each in cookies.items()} == {"one": "1", "two": "2"}


def test_file_response_is_sent_whole(url):
    response = httpx.get(f"{url}/file")
    assert response.content == bytes(range(256)) * 4096


def test_stream_is_iterated_and_closed_in_one_thread(url):
    assert httpx.get(f"{url}/stream").text == "part part part 1"
    wait_until(closed.is_set)


@pytest.mark.parametrize("path", ["/endless", "/endless_events"])
def test_stream_is_closed_after_client_disconnect(url, path):
    with Raw(url) as client:
        client.head("GET", path)
        assert client.response().status == 200
    wait_until(closed.is_set)


def test_async_view_and_its_async_stream_are_sent(url):
    assert httpx.get(f"{url}/asynchronous").text == "012"
