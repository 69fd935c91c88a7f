"""Request bodies of the API: streamed to views, within limits and timeouts (issue 10, 3)."""

import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from pulpcore.content_star.django_app import request_body
from tests.support.instance import wait_until
from tests.support.raw_client import Raw
from tests.support.server import Server, serving
from tests.support.views import serving_views

MEGABYTE = 1024 * 1024
UPLOAD = "/pulp/api/v3/artifacts/"
LIMIT = 200_000


@pytest.fixture(scope="module")
def server(instance) -> Iterator[Server]:
    with serving(instance) as server:
        yield server


def test_upload_without_credentials_returns_401_before_its_body_is_read(server):
    with Raw(server.url) as client:
        client.head("POST", UPLOAD, Content_Length=100 * 1024**4)
        sent = client.send_until_response(bytes(MEGABYTE))
        response = client.response()
        assert response.status == 401
        assert response.getheader("Connection") == "close"
        assert response.read()
        sent += client.send_until_closed(bytes(MEGABYTE))
    assert sent < 32 * MEGABYTE  # nearly all in the kernel's buffers


def test_upload_without_credentials_that_expects_100_continue_returns_401(server):
    with Raw(server.url) as client:
        client.head("POST", UPLOAD, Content_Length=MEGABYTE, Expect="100-continue")
        assert client.read_to_end().startswith(b"HTTP/1.1 401 ")


def test_upload_with_credentials_that_expects_100_continue_gets_it(server, instance):
    data = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n--b--\r\n"
    with Raw(server.url) as client:
        client.head(
            "POST",
            UPLOAD,
            Authorization=httpx.BasicAuth(instance.username, instance.password)._auth_header,
            Content_Type="multipart/form-data; boundary=b",
            Content_Length=len(data),
            Expect="100-continue",
        )
        assert client.read_line() == b"HTTP/1.1 100 Continue\r\n"
        client.send(data)
        assert client.read_line() == b"\r\n"
        assert client.response().status == 400  # "No file was submitted."


def test_incomplete_bodies_keep_memory_bounded_and_block_no_other_request(server):
    process = psutil.Process(server.process.pid)
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    httpx.get(f"{server.url}/auth/login/")
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(Raw(server.url))
            client.head("POST", "/auth/login/", Content_Length=2_400_000, **form)
            client.send_until_blocked(bytes(2_399_999))
        status = httpx.get(f"{server.url}/pulp/api/v3/status/")
        assert status.status_code == 200
        assert process.memory_info().rss - before < 150e6


@csrf_exempt
def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.META["wsgi.input"].read())


@csrf_exempt
def size(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.read())))


@csrf_exempt
def body(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.body)))


@csrf_exempt
async def asynchronous(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.body)))


@csrf_exempt
def unread(request: HttpRequest) -> HttpResponse:
    return HttpResponse("done")


read: list[bytes | Exception] = []


@csrf_exempt
def recorded(request: HttpRequest) -> HttpResponse:
    """Record the body or error that the view got, which a disconnected client cannot receive."""
    try:
        read.append(request.read())
    except Exception as error:
        read.append(error)
        raise
    return HttpResponse()


begun: list[str] = []


@csrf_exempt
def counted(request: HttpRequest) -> HttpResponse:
    begun.append(request.META["REMOTE_ADDR"])
    return HttpResponse(str(len(request.read())))


@csrf_exempt
def read_late(request: HttpRequest) -> StreamingHttpResponse:
    """Read the body on the server's event loop, which would block on itself."""

    async def parts() -> AsyncIterator[bytes]:
        read.append(b"begun")
        try:
            yield request.read()
        except Exception as error:
            read.append(error)
            raise

    return StreamingHttpResponse(parts())


VIEWS = (read_late, echo, size, body, asynchronous, unread, recorded, counted)


@pytest.fixture(scope="module")
def url(instance) -> Iterator[str]:
    with serving_views(*VIEWS) as url:
        yield url


@pytest.fixture(scope="module")
def limited(instance) -> Iterator[str]:
    with serving_views(*VIEWS, CONTENT_STAR_MAX_BODY_SIZE=LIMIT) as url:
        yield url


def chunked(count: int) -> Iterator[bytes]:
    for _ in range(count // 10_000):
        yield bytes(10_000)


@pytest.mark.parametrize("count", [0, 1, 65_536, 65_537, 3_000_000])
def test_body_with_content_length_reaches_the_view(url, count):
    data = bytes(range(256)) * (count // 256 + 1)
    response = httpx.put(f"{url}/echo", content=data[:count])
    assert response.content == data[:count]


def test_chunked_body_reaches_the_view(url):
    response = httpx.put(f"{url}/size", content=chunked(3_000_000))
    assert response.text == "3000000"


@pytest.mark.parametrize("view", ["body", "asynchronous"])
@pytest.mark.parametrize("count", [10_000, 2_000_000])
def test_request_body_is_read_by_sync_and_async_views(url, view, count):
    response = httpx.put(f"{url}/{view}", content=chunked(count))
    assert response.text == str(count)


def test_request_body_over_django_limit_returns_400(url):
    response = httpx.put(f"{url}/body", content=chunked(10_000_000))
    assert response.status_code == 400


def test_connection_with_an_unread_body_is_closed_after_the_response(url):
    with Raw(url) as client:
        client.head("PUT", "/unread", Content_Length=MEGABYTE)
        client.send(bytes(MEGABYTE))
        response = client.response()
        assert (response.status, response.getheader("Connection")) == (200, "close")
        assert response.read() == b"done"
        assert client.read_to_end() == b""


def test_connection_with_a_small_unread_body_is_kept_alive(url):
    with httpx.Client(base_url=url) as client:
        for _ in range(2):
            response = client.put("/unread", content=bytes(1000))
            assert "connection" not in response.headers


def test_body_over_the_limit_returns_413_before_it_is_read(limited):
    with Raw(limited) as client:
        client.head("PUT", "/size", Content_Length=LIMIT + 1, Expect="100-continue")
        assert client.read_to_end().startswith(b"HTTP/1.1 413 ")


def test_chunked_body_over_the_limit_returns_413(limited):
    assert httpx.put(f"{limited}/size", content=chunked(LIMIT)).text == "200000"
    response = httpx.put(f"{limited}/size", content=chunked(LIMIT + 10_000))
    assert (response.status_code, response.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("count", [1000, 100_000])
def test_body_that_stalls_returns_408(url, monkeypatch, count):
    monkeypatch.setattr(request_body, "STALL_TIMEOUT", 0.3)
    with Raw(url) as client:
        client.head("PUT", "/size", Content_Length=count)
        client.send(bytes(count - 1))
        assert re.match(rb"HTTP/1.1 408 .*connection: close", client.read_to_end(), re.S | re.I)


def test_body_that_drips_returns_408(url, monkeypatch):
    """Each part arrives in time, but the whole is too slow for a thread to wait for it."""
    monkeypatch.setattr(request_body, "STALL_TIMEOUT", 1.0)
    with Raw(url) as client:
        client.head("PUT", "/size", Content_Length=100_000)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not client.has_response(0.1):
            client.send(b"x")
        assert client.response().status == 408


@pytest.mark.parametrize("headers", [{"Content_Length": 100_000}, {"Transfer_Encoding": "chunked"}])
def test_client_disconnect_within_a_body_raises_oserror_in_the_view(url, headers):
    read.clear()
    with Raw(url) as client:
        client.head("PUT", "/recorded", **headers)
        client.send(b"a\r\n0123456789\r\n")
    wait_until(lambda: read)
    assert isinstance(read[0], OSError)


def test_client_disconnect_within_a_small_body_calls_no_view(url):
    read.clear()
    with Raw(url) as client:
        client.head("PUT", "/recorded", Content_Length=100)
        client.send(b"0123456789")
    assert httpx.put(f"{url}/recorded", content=b"whole").status_code == 200
    assert read == [b"whole"]


def test_half_closed_connection_does_not_end_a_body(url):
    read.clear()
    with Raw(url) as client:
        client.head("PUT", "/recorded", Content_Length=100_000)
        client.send(b"0123456789")
        client.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: read)
    assert isinstance(read[0], OSError)


def test_uploads_of_one_client_address_leave_half_of_the_threads_to_others(instance):
    begun.clear()
    with ExitStack() as stack:
        url = stack.enter_context(serving_views(*VIEWS, CONTENT_STAR_UPLOAD_THREADS=4))
        for _ in range(8):
            client = stack.enter_context(Raw(url))
            client.head("PUT", "/counted", Content_Length=100_000)
        wait_until(lambda: len(begun) == 2)
        other = httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"))
        response = stack.enter_context(other).put(f"{url}/counted", content=bytes(100_000))
        assert response.text == "100000"
        assert begun == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]


def test_body_read_on_the_event_loop_fails_and_stops_no_other_request(url):
    read.clear()
    with Raw(url) as client:
        client.head("PUT", "/read_late", Content_Length=100_000)
        wait_until(lambda: len(read) == 2)
        assert isinstance(read[1], RuntimeError)
        assert httpx.get(f"{url}/unread").text == "done"
