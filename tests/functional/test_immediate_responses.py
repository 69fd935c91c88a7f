"""Responses from memory that uvicorn's protocol sends without a call of the application."""

import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.support.instance import Instance, wait_until
from tests.support.random_requests import random_request
from tests.support.raw_client import Raw
from tests.support.server import Server, memory, serving

OURS = ("--http", "pulpcore.content_star.server:HttpProtocol", "--no-access-log")
CHECKOUT = str(Path(__file__).parents[2])
DATA = b"0123456789" * 400
RANDOM = 120
LARGEST = bytes(64 * 1024)
OF_REQUEST = {"date", "correlation-id"}


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(instance: Instance, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Our protocol class on each event loop, with an application that counts its calls."""
    options = (*OURS, "--loop", request.param, "--timeout-keep-alive", "2")
    app = "tests.support.called_app:app"
    with serving(instance, *options, app=app, PYTHONPATH=CHECKOUT) as running:
        yield running


@pytest.fixture(scope="module")
def path(module_orm) -> str:
    """Path of a public file."""
    files = {"a b.bin": DATA, "big.bin": LARGEST}
    return f"{module_orm.distribution(publication=module_orm.publication(files))}/a b.bin"


@pytest.fixture
def client(server: Server, path: str) -> Iterator[httpx.Client]:
    """A client of the server, which has the files in memory."""
    with httpx.Client(base_url=server.content_url, timeout=300) as client:
        for _ in range(3):
            for method in ("GET", "HEAD"):
                assert client.request(method, path).status_code == 200
            client.get(path.replace("a b", "big"))
        yield client


def calls(server: Server) -> int:
    return int(httpx.get(f"{server.url}/calls").text)


def immediately(
    server: Server, client: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> httpx.Response:
    """Repeat a request until its response is immediate: not while the cache waits for a ping."""
    found: list[httpx.Response] = []

    def is_immediate() -> bool:
        before = calls(server)
        found[:] = [client.request(method, path, headers=headers)]
        return calls(server) == before

    wait_until(is_immediate)
    return found[0]


def parts_of(response: httpx.Response) -> tuple:
    headers = [item for item in response.headers.raw if item[0].lower().decode() not in OF_REQUEST]
    return response.status_code, headers, response.content


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Accept": "text/html"},
        {"If-None-Match": "{etag}"},
        {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"},
        {"Correlation-ID": "0123456789abcdef0123456789abcdef"},
        {"Connection": "Upgrade", "Upgrade": "h2c"},
    ],
    ids=lambda headers: " ".join(headers) or "none",
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("query", ["", "?a=b"])
def test_immediate_response_equals_that_of_a_call(server, client, path, method, query, headers):
    """A request with a body, if an empty one, calls the application."""
    etag = client.get(path).headers["ETag"]
    headers = {name: value.format(etag=etag) for name, value in headers.items()}
    immediate = immediately(server, client, method, path + query, headers)
    for _ in range(2):  # the third time, its head is known
        again = immediately(server, client, method, path + query, headers)
    before = calls(server)
    called = client.request(method, path + query, headers={**headers, "Content-Length": "0"})
    assert calls(server) == before + 1
    assert parts_of(immediate) == parts_of(again) == parts_of(called)
    for response in (immediate, again, called):
        assert response.headers["Date"]
        given = headers.get("Correlation-ID")
        assert response.headers["Correlation-ID"] == given or given is None
        assert len(response.headers["Correlation-ID"]) == 32


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-3"},
        {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"If-None-Match": '"other"'},
        {"Expect": "100-continue"},
        {"Connection": "close"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_request_with_a_condition_or_expectation_calls(server, client, path, headers):
    before = calls(server)
    response = client.get(path, headers=headers)
    assert response.status_code in (200, 206, 304)
    assert calls(server) == before + 1
    assert client.get(path).content == DATA


def test_request_with_a_body_calls_and_the_body_is_no_request(server, client, path):
    before = calls(server)
    for body in (b"GET / HTTP/1.1\r\n\r\n", iter([b"GET / ", b"HTTP/1.1\r\n\r\n"])):
        assert client.request("GET", path, content=body).content == DATA
    assert calls(server) == before + 2
    assert client.get(path).content == DATA


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET %b HTTP/1.1\r\n\r\n", 400),
        (b"GET %b HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
        (b"GET http://a%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        (b"GET %b%%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        (b"GET %b%%ff HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        (b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_unusual_request_calls(server, client, path, request_, status):
    before = calls(server)
    with Raw(server.url) as connection:
        connection.send(request_ % target(server, path))
        response = connection.response()
        assert response.status == status
        if status == 200:
            assert response.read() == DATA
    assert calls(server) == before + 1


def test_response_after_the_client_has_half_closed(server, client, path):
    with Raw(server.url) as connection:
        connection.send(get_request(server, path))
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.read_to_end().endswith(b"\r\n\r\n" + DATA)


def test_idle_connection_is_closed_after_an_immediate_response(server, client, path):
    """After `--timeout-keep-alive`."""
    with Raw(server.url) as connection:
        connection.send(get_request(server, path))
        assert connection.read_to_end().endswith(b"\r\n\r\n" + DATA)


def test_idle_connection_is_closed_silently_after_an_empty_line_and_a_known_head(
    server, client, path
):
    """Empty lines before a request are ignored (RFC 9112 section 2.2), also by timeouts."""
    head = get_request(server, path)
    with Raw(server.url) as connection:
        for before in (b"", b"", b"", b"\r\n"):
            connection.send(before)
            for _ in range(2):  # when it is answered, the line has been read
                assert client.get(path).content == DATA
            connection.send(head)
            assert connection.response().read() == DATA
        assert connection.read_to_end() == b""


def test_date_of_an_immediate_response_advances(server, client, path):
    first = immediately(server, client, "GET", path, {}).headers["Date"]
    wait_until(lambda: immediately(server, client, "GET", path, {}).headers["Date"] != first)


def test_pipelined_requests_get_their_responses_in_order(server, client, path):
    """Immediate ones and others, in one read."""
    requests = get_request(server, path) + get_request(server, path.replace("a b", "none"))
    with Raw(server.url) as connection:
        for _ in range(5):
            connection.send(requests * 20)
            for _ in range(20):
                found = connection.response()
                assert (found.status, found.read()) == (200, DATA)
                absent = connection.response()
                assert absent.status == 404
                assert absent.read()


@pytest.mark.parametrize("begin", [b"", b"GET /none HTTP/1.1\r\nX-Value: "])
def test_known_head_inside_of_another_request_is_no_request(server, client, path, begin):
    """The other one began in the same read as the end of the one before, and ends in the next."""
    head = get_request(server, path)
    with Raw(server.url) as connection:
        for _ in range(4):
            connection.send(head)
            assert connection.response().read() == DATA
        connection.send(head + (begin or b"GET /none"))
        assert connection.response().read() == DATA
        connection.send(head)
        assert connection.response().status == (404 if begin else 400)


@pytest.mark.parametrize("has_body", [False, True], ids=["rest of a head", "rest of a body"])
def test_known_head_is_one_that_begins_a_request(server, client, path, has_body):
    """Not the second part of a head, nor one behind the rest of a body, which came in one read."""
    known = get_request(server, path)
    if has_body:
        begin = known[:-2] + b"Content-Length: 5\r\n\r\n"
        rest = b"hello" + known
    else:
        begin = known + known[:8]
        rest = known[8:]
    for _ in range(4):
        with Raw(server.url) as connection:
            connection.send(begin)
            assert connection.response().read() == DATA
            connection.send(rest)
            assert connection.response().read() == DATA
    with Raw(server.url) as connection:
        connection.send(rest)
        assert connection.response().status == 400


def test_client_that_does_not_read_costs_bounded_memory(server, client, path):
    """It sends thousands of requests for 64 KiB, in reads of one request and of many."""
    request = get_request(server, path.replace("a b", "big"))
    before = memory(server)
    with Raw(server.url) as connection, Raw(server.url) as pipelining:
        sent = sum(connection.send_until_blocked(request) for _ in range(200))
        sent += pipelining.send_until_blocked(request * 5000)
        assert sent > 100 * len(request)
        assert client.get(path).content == DATA
        assert memory(server) - before < 16 * 2**20


def test_guarded_file_calls(server, client, orm):
    from pulpcore.app.models import HeaderContentGuard

    guard = orm.guard(HeaderContentGuard, header_name="x-key", header_value="open")
    base = orm.distribution(publication=orm.publication({"a.bin": DATA}), content_guard=guard)
    key = {"X-Key": b64encode(b"open").decode()}
    for _ in range(3):
        before = calls(server)
        assert client.get(f"{base}/a.bin", headers=key).content == DATA
        assert client.get(f"{base}/a.bin").status_code == 403
        assert calls(server) == before + 2


@pytest.mark.parametrize("name", ["closed", "transparent"])
def test_middleware_around_the_application_sees_every_request(instance, path, name):
    app = f"tests.support.called_app:{name}"
    with serving(instance, *OURS, app=app, PYTHONPATH=CHECKOUT) as server:
        url = server.content_url + path
        for _ in range(3):
            assert httpx.get(url, headers={"X-Key": "open"}).content == DATA
            assert httpx.get(url).status_code == 403


def test_change_of_the_content_is_seen(server, client, orm):
    from pulp_file.app.models import FileDistribution

    base = orm.distribution(publication=orm.publication({"a.bin": DATA}))
    assert immediately(server, client, "GET", f"{base}/a.bin", {}).content == DATA
    FileDistribution.objects.get(base_path=base).delete()
    assert client.get(f"{base}/a.bin").status_code == 404


def test_random_requests_get_the_responses_of_calls(instance, server, client, path):
    """Valid and invalid ones, with a second request on the same connection."""
    random = Random(9112)
    etag = immediately(server, client, "GET", path, {}).headers["ETag"].encode()
    app = "tests.support.called_app:always_called"
    before = calls(server)
    with serving(instance, *OURS, app=app, PYTHONPATH=CHECKOUT) as called:
        for number in range(RANDOM):
            request, is_whole = random_request(random, target(server, path), etag)
            expected = responses(called, request, target(server, path), is_whole)
            for _ in range(3):  # the third time, its head is known
                found = responses(server, request, target(server, path), is_whole)
                assert found == expected, (number, request)
    assert calls(server) - before < 4.5 * RANDOM, "a quarter was immediate"


def responses(server: Server, request: bytes, path: bytes, is_whole: bool) -> list:
    """Return the responses to a request and one that closes, but for dates and generated ids.

    All bytes after them if the first may end inside of the second.
    """
    last = b"GET %b HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n" % path
    found: list = []
    with Raw(server.url) as connection:
        if is_whole:
            connection.send(request)
            first = connection.response(request.split()[0].decode())
            found = [first.status, first.reason, headers_of(first, request), first.read()]
            if not first.will_close:
                connection.send(last)
        else:
            connection.send(request + last)
            connection.socket.shutdown(socket.SHUT_WR)
        rest = connection.read_to_end()
    return [*found, re.sub(rb"\r\n(Date|Correlation-ID): [^\r]+", b"", rest)]


def headers_of(response: HTTPResponse, request: bytes) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in response.getheaders()
        if name.lower() not in OF_REQUEST or value.encode() in request
    ]


def target(server: Server, path: str) -> bytes:
    return httpx.URL(f"{server.content_url}{path}").raw_path


def get_request(server: Server, path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: example.org\r\n\r\n" % target(server, path)
