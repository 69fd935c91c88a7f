"""The server: uvicorn with our protocol class, and Pulp under uvicorn's own classes."""

import http.client
import json
import os
import resource
import select
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from pulpcore.content_star.listings.directory import ROWS
from tests.support.bulk import Bulk
from tests.support.instance import Instance, in_venv, wait_until
from tests.support.orm import Orm
from tests.support.protocol_app import LARGE
from tests.support.server import Server, free_port, memory, running, serving

pytestmark = pytest.mark.slow

T = TypeVar("T")
OURS = ("--http", "pulpcore.content_star.server:HttpProtocol")
CHECKOUT = str(Path(__file__).parents[2])
GET = b"GET %b HTTP/1.1\r\nHost: example.org\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: example.org\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE


def connect(server: Server | Instance) -> socket.socket:
    """Open a TCP connection to a server."""
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port), timeout=300)


class Client:
    """A connection to a server that sends bytes unchanged."""

    def __init__(self, server: Server | Instance) -> None:
        self.socket = connect(server)
        if server.url.startswith("https"):
            self.socket = UNVERIFIED.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def response(self) -> tuple[int, bytes]:
        """Read one response and return its status and body; later bytes stay in the buffer."""
        line = self.file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers = http.client.parse_headers(self.file)
        if "Content-Length" in headers:
            return status_of(line), self.file.read(int(headers["Content-Length"]))
        assert headers["Transfer-Encoding"] == "chunked"
        body = b""
        while size := int(self.file.readline(), 16):
            body += self.file.read(size + 2)[:-2]
        self.file.readline()
        return status_of(line), body

    def rest(self) -> bytes:
        """Return all bytes up to the end of the connection."""
        return self.file.read()

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.socket.close()


def send(server: Server | Instance, data: bytes) -> bytes:
    """Send `data` on a new connection, and return all bytes up to its end."""
    with Client(server).send(data) as client:
        return client.rest()


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def events(server: Server) -> list[str]:
    return httpx.get(f"{server.url}/events", verify=UNVERIFIED).json()


@contextmanager
def serving_protocol_app(instance: Instance, *arguments: str, **environ: str) -> Iterator[Server]:
    """Run uvicorn with `tests.support.protocol_app`."""
    environ = {
        "PYTHONPATH": CHECKOUT,
        "DJANGO_SETTINGS_MODULE": "pulpcore.app.settings",
        **environ,
    }
    options = ("--no-access-log", *arguments)  # with it, no response is immediate
    with serving(instance, *options, app="tests.support.protocol_app:app", **environ) as server:
        yield server


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(instance: Instance, loop: str) -> Iterator[Server]:
    """Our protocol class on each event loop, with `tests.support.protocol_app`."""
    with serving_protocol_app(instance, *OURS, "--loop", loop) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(instance: Instance, loop: str) -> Iterator[Server]:
    """As `server`, with timeouts of a second."""
    environ = {
        "PULP_CONTENT_STAR_HEAD_TIMEOUT": "1",
        "PULP_CONTENT_STAR_BODY_TIMEOUT": "1",
        "INTERVAL": "0.1",
        "PROBE_SECONDS": "1",
    }
    with serving_protocol_app(instance, *OURS, "--loop", loop, **environ) as running:
        yield running


@pytest.fixture(
    scope="module", params=[OURS, ("--http", "httptools"), ("--http", "h11")], ids=lambda o: o[1]
)
def any_server(instance: Instance, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Pulp under our protocol class and under each of uvicorn's own."""
    with serving(instance, *request.param) as running:
        yield running


# Host


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nHost: b\r\n",
        b"Host:\r\n",
        b"Host: a/b\r\n",
        b"Host: a b\r\n",
        b"Host: a@b\r\n",
        b"Host: a:port\r\n",
        b"Host: [::1\r\n",
        b"Host: \xe9\r\n",
        b"Host: " + b"a" * 2000 + b"\r\n",
    ],
    ids=lambda value: repr(value[:30]),
)
def test_host_missing_repeated_or_invalid_returns_400(any_server, hosts):
    request = b"GET /pulp/content/ HTTP/1.1\r\n" + hosts + b"\r\n"
    assert status_of(send(any_server, request)) == 400


@pytest.mark.parametrize("path", [b"/pulp/content/", b"/pulp/api/v3/status/", b"/"])
def test_host_missing_returns_400_on_every_path(any_server, path):
    assert status_of(send(any_server, b"GET " + path + b" HTTP/1.1\r\n\r\n")) == 400


@pytest.mark.parametrize(
    "host", [b"a", b"a_b.example:80", b"[::1]:8080", b"10.0.0.1", b"a:", b"A%C3"]
)
def test_host_that_is_valid_returns_200(any_server, host):
    with Client(any_server) as client:
        client.send(b"GET /pulp/content/livez HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert client.response() == (200, b"ok\n")


def test_host_in_http_1_0_is_optional_and_not_repeated(any_server):
    line = b"GET /pulp/content/livez HTTP/1.0\r\n"
    assert status_of(send(any_server, line + b"\r\n")) == 200
    assert status_of(send(any_server, line + b"Host: a\r\n\r\n")) == 200
    assert status_of(send(any_server, line + b"Host: a\r\nHost: a\r\n\r\n")) == 400
    assert status_of(send(any_server, line + b"Host: a/b\r\n\r\n")) == 400


# HTTP/1.0


@pytest.fixture(scope="module")
def large(instance: Instance, module_orm: Orm) -> Iterator[str]:
    """The base path of a directory whose listing is streamed."""
    bulk = Bulk(module_orm, ROWS + 100, "many/%s-{unique}")
    yield module_orm.distribution(from_publication=False, repository_version=bulk.version)
    bulk.remove()


def test_http_1_0_receives_a_large_listing_without_chunks(any_server, large):
    path = f"/pulp/content/{large}/many/".encode()
    head, _, body = send(any_server, b"GET " + path + b" HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == httpx.get(any_server.url + path.decode()).content


def test_http_1_0_body_without_length_ends_with_the_connection(server):
    head, _, body = send(server, b"GET /stream HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"one\ntwo\nthree\n"
    assert b"chunked" not in head
    head = send(server, b"HEAD /stream HTTP/1.0\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"chunked" not in head


def test_http_1_0_request_with_chunks_returns_400(server):
    request = b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert status_of(send(server, request)) == 400


@pytest.mark.parametrize("line", [b"GET /", b"GET / HTTP/0.9", b"GET / HTTP/2.0"])
def test_http_version_that_is_unsupported_returns_505(server, line):
    assert status_of(send(server, line + b"\r\n\r\n")) == 505


# Header case


def test_header_case_is_as_registered(instance, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    head = send(instance, f"GET /pulp/content/{base}/a.txt HTTP/1.0\r\n\r\n".encode())
    names = [line.split(b":")[0] for line in head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert {b"Content-Type", b"ETag", b"X-PULP-ARTIFACT-SIZE", b"Correlation-ID"} <= set(names)
    assert all(name[:1].isupper() for name in names)
    head = send(instance, b"GET /pulp/api/v3/users/ HTTP/1.0\r\n\r\n")
    assert b"\r\nWWW-Authenticate: " in head
    head = send(instance, b"GET /auth/login/ HTTP/1.0\r\n\r\n")
    assert b"\r\nSet-Cookie: " in head


# Head


def test_head_over_the_limit_returns_431(server):
    line = b"X-Certificate: " + b"a" * (1 << 20) + b"\r\n\r\n"
    assert status_of(send(server, GET[:-2] % b"/" + line)) == 431
    with Client(server).send(GET % b"/plain") as client:
        assert client.response() == (200, b"plain")
        assert status_of(client.send(GET[:-2] % b"/" + line).rest()) == 431


def test_head_of_43_mb_keeps_memory_bounded(server):
    before = memory(server)
    with Client(server).send(GET[:-2] % b"/" + b"X-Certificate: ") as client:
        for _ in range(43):
            client.send(b"a" * (1 << 20))
        assert status_of(client.rest()) == 431
    assert memory(server) - before < 16 << 20


def test_head_just_below_the_limit_returns_200(server):
    line = b"X-Certificate: " + b"a" * (127 << 10) + b"\r\n\r\n"
    with Client(server).send(GET[:-2] % b"/plain" + line) as client:
        assert client.response() == (200, b"plain")


def test_head_with_too_many_headers_returns_431(server):
    request = GET[:-2] % b"/" + b"a: b\r\n" * 300 + b"\r\n"
    assert status_of(send(server, request)) == 431


@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_head_with_a_long_target_returns_414(server, end):
    request = b"GET /" + b"a" * (20 << 10 if end else 200 << 10) + end
    assert status_of(send(server, request)) == 414


def test_head_one_byte_at_a_time_returns_200(server):
    with Client(server) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET % b"/plain":
            client.send(bytes([byte]))
        assert client.response() == (200, b"plain")


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        POST + b"Content-Length: 3, 3\r\n\r\nabc",
        POST + b"Content-Length: +3\r\n\r\nabc",
        POST + b"Content-Length:\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\n",
        CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\nabc\n0\n\n",
        CHUNKED + b"ffffffffffffffffff\r\nabc\r\n",
        CHUNKED + b"3\r\nabcdef0\r\n\r\n",
        GET[:-2] % b"/" + b"X: a\r\n b\r\n\r\n",
        GET[:-2] % b"/" + b"X : a\r\n\r\n",
        GET[:-2] % b"/" + b"X: a\0b\r\n\r\n",
        GET[:-2] % b"/" + b"X: a\rb\r\n\r\n",
        GET[:-2] % b"/" + b": a\r\n\r\n",
        GET[:-2] % b"/" + b"X\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SMUGGLE / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda value: repr(value[-40:]),
)
def test_head_that_is_ambiguous_returns_400_and_closes(server, request_):
    """Later bytes on the connection are never parsed as a request (RFC 9112 section 11.2)."""
    received = send(server, request_ + GET % b"/smuggled")
    assert status_of(received) in (400, 501)
    assert received.count(b"HTTP/1.1") == 1
    assert not received.endswith(b"plain")


def test_head_that_is_invalid_after_a_pipelined_request_returns_400_after_its_response(
    server, loop
):
    name = f"broken-{loop}".encode()
    with Client(server).send(GET % (b"/wait/" + name) + b"nonsense\r\n\r\n") as client:
        wait_until(lambda: f"waits: {name.decode()}" in events(server))
        httpx.get(f"{server.url}/open/{name.decode()}")
        assert client.response() == (200, b"waited for " + name)
        assert client.response()[0] == 400
        assert client.rest() == b""


@pytest.mark.parametrize("queued", [0, 1])
def test_head_with_an_invalid_target_returns_400_after_earlier_responses(server, loop, queued):
    """It takes the place of no response to a pipelined request."""
    name = f"target-{queued}-{loop}"
    invalid = b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"
    data = GET % f"/wait/{name}".encode() + GET % b"/plain" * queued + invalid
    with Client(server).send(data) as client:
        wait_until(lambda: f"waits: {name}" in events(server))
        httpx.get(f"{server.url}/open/{name}")
        assert client.response() == (200, f"waited for {name}".encode())
        for _ in range(queued):
            assert client.response() == (200, b"plain")
        assert client.response()[0] == 400
        assert client.rest() == b""


# Upgrade


def test_upgrade_to_http_2_is_ignored_with_and_without_a_body(server):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    with Client(server).send(POST + upgrade + b"Content-Length: 3\r\n\r\nab") as client:
        status, body = client.send(b"c" + GET % b"/plain").response()
        assert status == 200
        assert json.loads(body)["body"] == "abc"
        assert client.response() == (200, b"plain")
        client.send(GET[:-2] % b"/plain" + upgrade + b"\r\n" + GET % b"/stream")
        assert client.response() == (200, b"plain")
        assert client.response() == (200, b"one\ntwo\nthree\n")


@pytest.mark.parametrize("start", [GET[:-2] % b"/plain", POST + b"Content-Length: 3\r\n"])
def test_upgrade_to_websocket_returns_501_and_ends_the_connection(impatient, start):
    """uvicorn's WebSocket classes would keep it open, without a deadline or limit."""
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    assert status_of(send(impatient, start + upgrade + b"abc")) == 501
    before = impatient.said().count(": 408 ")
    for _ in range(3):
        assert send(impatient, b"") == b"", "the time of a deadline has passed"
    assert impatient.said().count(": 408 ") == before
    with Client(impatient).send(GET % b"/plain" + start + upgrade) as client:
        assert client.response() == (200, b"plain")
        assert client.response()[0] == 501


def test_upgrade_by_connect_returns_501(server):
    request = b"CONNECT %b HTTP/1.1\r\nHost: a\r\n\r\n"
    assert status_of(send(server, request % b"a:443" + GET % b"/plain")) == 501
    assert status_of(send(server, request % b"/" + GET % b"/plain")) == 501


# Bodies


def test_chunk_trailers_are_not_headers(server):
    trailers = b"3\r\nabc\r\n0\r\nX-Client-Cert: forged\r\nHost: b\r\n\r\n"
    with Client(server).send(CHUNKED + trailers) as client:
        status, body = client.response()
    assert status == 200
    assert json.loads(body)["body"] == "abc"
    assert [name for name, _ in json.loads(body)["headers"]] == ["host", "transfer-encoding"]


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"3\r\nabc\r\n0\r\nX: ", b"a" * 65536),
        (b"3\r\nabc\r\n0\r\n", b"X: a\r\n" * 10000),
        (b"3;", b"a" * 65536),
        (b"", (b"1;" + b"a" * 9000 + b"\r\nx\r\n") * 7),
    ],
    ids=["one trailer", "trailers", "one extension", "extensions"],
)
def test_chunk_framing_without_end_returns_400(server, start, part):
    before = memory(server)
    with Client(server).send(CHUNKED + start) as client:
        for _ in range(100):
            if select.select([client.socket], [], [], 0)[0]:
                break
            client.send(part)
        assert status_of(client.rest()) == 400
    assert memory(server) - before < 16 << 20


def test_chunks_of_one_byte_are_accepted(server):
    body = b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
    with Client(server).send(CHUNKED + body) as client:
        status, received = client.response()
    assert status == 200
    assert json.loads(received)["body"] == "x" * 200_000


def test_continue_is_not_sent_after_an_error_response(server, loop):
    name = f"expects-{loop}"
    post = CHUNKED.replace(b"/echo", f"/echo/{name}".encode())
    expecting = post[:-2] + b"Expect: 100-continue\r\n\r\n"
    received = send(server, expecting + b"not a size\r\n")
    assert status_of(received) == 400
    assert b"100 Continue" not in received
    wait_until(lambda: f"truncated: {name}" in events(server))


def test_continue_is_not_sent_to_http_1_0(server):
    post = POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    received = send(server, post + b"abc")
    assert status_of(received) == 200
    assert b"100 Continue" not in received


# Timeouts


def test_timeout_of_a_silent_connection_closes_it(impatient):
    assert send(impatient, b"") == b""


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_timeout_of_half_a_head_returns_408(impatient, start):
    assert status_of(send(impatient, start)) == 408
    with Client(impatient).send(GET % b"/plain") as client:
        assert client.response() == (200, b"plain")
        assert status_of(client.send(start).rest()) == 408
    with Client(impatient).send(GET % b"/plain" + start) as client:  # in one read
        assert client.response() == (200, b"plain")
        assert status_of(client.rest()) == 408


def test_timeout_of_keep_alive_closes_silently_after_a_body(impatient):
    """A 408 would be taken for the response to the next request (RFC 9110 section 15.5.9)."""
    post = CHUNKED.replace(b"/echo", b"/plain")
    with Client(impatient).send(post) as client:
        assert client.response() == (200, b"plain")
        assert client.send(b"0\r\nX: 1\r\n\r\n").rest() == b""


def test_timeout_counts_from_the_first_byte_of_a_head(impatient):
    """Bytes that keep arriving do not extend it."""
    with Client(impatient).send(b"GET / HTTP/1.1\r\nX: ") as client:
        while not select.select([client.socket], [], [], 0.2)[0]:
            client.send(b"a")
        assert status_of(client.rest()) == 408
    with Client(impatient) as client:
        while not select.select([client.socket], [], [], 0.2)[0]:
            client.send(b"\r\n")
        assert client.rest()[:12] in (b"", b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "start", [POST + b"Content-Length: 9\r\n\r\n", POST + b"Content-Length: 9\r\n\r\nabc", CHUNKED]
)
def test_timeout_of_a_body_that_stalls_returns_408(impatient, start):
    with Client(impatient).send(start.replace(b"/echo", b"/echo/stalled")) as client:
        assert status_of(client.rest()) == 408
    assert "truncated: stalled" in events(impatient)


def test_timeout_of_a_body_holds_after_another_wait_for_it_was_cancelled(impatient):
    start = POST.replace(b"/echo", b"/watched") + b"Content-Length: 9\r\n\r\nabc"
    with Client(impatient).send(start) as client:
        assert status_of(client.rest()) == 408


def test_timeout_of_a_body_does_not_run_while_the_application_is_busy(impatient, loop):
    """The application waits for longer than the timeout, and reads no body."""
    name = f"busy-{loop}"
    with Client(impatient).send(GET % f"/wait/{name}".encode()) as client:
        assert send(impatient, b"") == b"", "the time of a deadline has passed"
        assert send(impatient, b"") == b""
        httpx.get(f"{impatient.url}/open/{name}")
        assert client.response() == (200, f"waited for {name}".encode())


def test_timeout_of_a_body_that_is_not_read_closes_the_connection(impatient):
    """The response comes first; the rest of the body is discarded until the timeout."""
    post = POST.replace(b"/echo", b"/plain") + b"Content-Length: 1000000\r\n\r\n"
    with Client(impatient).send(post) as client:
        assert client.response() == (200, b"plain")
        with pytest.raises(OSError):
            while not select.select([client.socket], [], [], 0.2)[0]:
                client.send(b"a")
            assert client.rest() == b""
            raise ConnectionError("closed")


def test_timeout_starts_when_an_unread_body_is_complete(impatient):
    post = POST.replace(b"/echo", b"/plain") + b"Content-Length: 3\r\n\r\n"
    with Client(impatient).send(post) as client:
        assert client.response() == (200, b"plain")
        assert client.send(b"abc" + GET % b"/plain").response() == (200, b"plain")
        client.send(post)
        assert client.response() == (200, b"plain")
        assert client.send(b"abc").rest() == b""


def test_timeout_of_a_head_counts_from_its_first_byte_after_a_response(instance, loop):
    """That of keep-alive ends with the first byte of the next head."""
    environ = {"PULP_CONTENT_STAR_HEAD_TIMEOUT": "300", "INTERVAL": "0.1"}
    options = (*OURS, "--loop", loop, "--timeout-keep-alive", "3")
    with (
        serving_protocol_app(instance, *options, **environ) as server,
        ExitStack() as clients,
    ):
        started = [clients.enter_context(Client(server)) for _ in range(2)]
        idle = clients.enter_context(Client(server))
        for client, path in zip(started, (b"/memory/5", b"/plain"), strict=True):
            assert client.send(GET % path).response()[1] in (b"mmmmm", b"plain")
            client.send(b"GET ")
        assert idle.send(GET % b"/memory/5").response() == (200, b"mmmmm")
        assert idle.rest() == b""
        for client in started:
            assert client.send(b"/plain HTTP/1.1\r\nHost: a\r\n\r\n").response() == (200, b"plain")


@pytest.mark.parametrize("path", [b"/memory/24000000", b"/large"])
@pytest.mark.parametrize("ends", [False, True], ids=["keep-alive", "shutdown"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_timeout_of_keep_alive_truncates_no_response(instance, loop, path, ends, tls, tls_options):
    """Also not that of connections that are idle at the end of the process."""
    options = (*OURS, "--loop", loop, "--timeout-keep-alive", "300" if ends else "1")
    options += (*tls_options,) if tls else ()
    with (
        serving_protocol_app(instance, *options, INTERVAL="0.1") as server,
        Client(server).send(GET % path) as slow,
        Client(server).send(GET % b"/memory/5") as other,
    ):
        assert other.response() == (200, b"mmmmm")
        if ends:
            server.process.terminate()
        assert other.rest() == b""
        assert len(slow.response()[1]) == 24_000_000
        assert slow.rest() == b""


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_requests_after_the_last_one_do_not_truncate_its_response(instance, loop, tls, tls_options):
    """To close with data that has not been read resets the connection."""
    options = (*OURS, "--loop", loop, *(tls_options if tls else ()))
    with (
        serving_protocol_app(instance, *options, INTERVAL="0.1") as server,
        Client(server).send(GET[:-2] % b"/large" + b"Connection: close\r\n\r\n") as slow,
        Client(server).send(GET[:-2] % b"/plain" + b"Connection: close\r\n\r\n") as other,
    ):
        assert other.response() == (200, b"plain")
        slow.send(GET % b"/plain" * 100)
        assert other.rest() == b""
        slow.send(GET % b"/plain" * 100)
        assert slow.response() == (200, LARGE.encode())
        assert slow.rest() == b""


def test_client_that_resets_the_connection_at_the_end_of_the_last_response(server, loop, tmp_path):
    """To half-close it then is an error."""
    name, file = f"reset-{loop}", tmp_path / "reset"
    with Client(server).send(GET % f"/block/{name}?{file}".encode()) as client:
        assert client.file.readline().startswith(b"HTTP/1.1 200")
        client.reset()
        file.touch()
    wait_until(lambda: f"blocked: {name}" in events(server))


def test_exception_in_an_immediate_response_is_that_of_the_call(server):
    with Client(server).send(GET % b"/fails") as client:
        assert client.response() == (500, b"Internal Server Error")
    assert "RuntimeError: of the application" in server.said()


# Pipelining


def test_pipelined_requests_are_answered_in_order(server):
    paths = [b"/stream" if i % 3 else b"/plain" for i in range(1000)]
    data = b"".join(GET % path for path in paths)
    with Client(server) as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        received = client.rest()
    assert received.count(b"HTTP/1.1 200") == 1000
    assert received.count(b"plain") == paths.count(b"/plain")
    assert received.count(b"three") == paths.count(b"/stream")


def test_pipelined_requests_keep_memory_bounded(server, loop):
    name = f"pipeline-{loop}"
    data = GET % b"/plain" * 2000
    sent = 0
    with Client(server).send(GET % f"/wait/{name}".encode()) as client:
        wait_until(lambda: f"waits: {name}" in events(server))
        before = memory(server)
        client.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                sent += client.socket.send(data[sent % len(GET % b"/plain") :])
        client.socket.settimeout(300)
        assert memory(server) - before < 16 << 20
        httpx.get(f"{server.url}/open/{name}")
        assert client.response() == (200, f"waited for {name}".encode())
        assert client.response() == (200, b"plain")


def test_pipelined_requests_pass_a_client_disconnect_to_the_running_one(server, loop):
    name = f"pipelined-{loop}"
    with Client(server).send(GET % f"/wait/{name}".encode() + GET % b"/plain" * 3) as client:
        wait_until(lambda: f"waits: {name}" in events(server))
        client.reset()
    wait_until(lambda: f"disconnect: {name}" in events(server))


# Half-closed


def test_half_closed_connection_receives_its_responses(server, loop):
    name = f"half-{loop}"
    with Client(server).send(GET % f"/wait/{name}".encode() + GET % b"/plain" * 40) as client:
        wait_until(lambda: f"waits: {name}" in events(server))
        client.socket.shutdown(socket.SHUT_WR)
        httpx.get(f"{server.url}/open/{name}")
        received = client.rest()
    assert f"waited for {name}".encode() in received
    assert received.count(b"HTTP/1.1 200") == 41


def test_half_closed_connection_receives_a_file(instance, orm):
    data = b"0123456789" * 1_000_000
    base = orm.distribution(publication=orm.publication({"a.bin": data}))
    with Client(instance).send(GET % f"/pulp/content/{base}/a.bin".encode()) as client:
        client.socket.shutdown(socket.SHUT_WR)
        assert client.response() == (200, data)
        assert client.rest() == b""


def test_half_closed_connection_that_is_reset_is_a_client_disconnect(impatient, loop):
    name = f"half-reset-{loop}"
    with Client(impatient).send(GET % f"/wait/{name}".encode()) as client:
        wait_until(lambda: f"waits: {name}" in events(impatient))
        client.socket.shutdown(socket.SHUT_WR)
        assert send(impatient, b"") == b"", "the time of a deadline has passed"
        assert f"disconnect: {name}" not in events(impatient)
        client.reset()
    wait_until(lambda: f"disconnect: {name}" in events(impatient))


def test_half_closed_connection_whose_client_closed_it_is_a_client_disconnect(impatient, loop):
    """Closing looks like half-closing to the server, which has to probe the client."""
    name = f"half-left-{loop}"
    with Client(impatient).send(GET % f"/wait/{name}".encode()) as client:
        wait_until(lambda: f"waits: {name}" in events(impatient))
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
    wait_until(lambda: f"disconnect: {name}" in events(impatient))


def test_half_closed_connection_that_stalls_disconnects(instance, loop):
    """Its client may have left; one that has yet to read what was sent has not."""
    with (
        serving_protocol_app(
            instance, *OURS, "--loop", loop, HALF_CLOSED_TIMEOUT="1", INTERVAL="0.1"
        ) as server,
        Client(server).send(GET % b"/large") as slow,
    ):
        slow.socket.shutdown(socket.SHUT_WR)
        for name in ("first", "second"):
            with Client(server).send(GET % f"/wait/{name}".encode()) as client:
                wait_until(lambda name=name: f"waits: {name}" in events(server))
                client.socket.shutdown(socket.SHUT_WR)
                wait_until(lambda name=name: f"disconnect: {name}" in events(server))
        assert slow.response() == (200, LARGE.encode())


def test_inherited_socket_sends_without_delay(instance, loop):
    """uvicorn takes it for a Unix socket, for which asyncio does not ask for that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        fd = listener.fileno()
        command = ["uvicorn", "tests.support.protocol_app:app", "--fd", str(fd), "--loop", loop]
        environ = {"PYTHONPATH": CHECKOUT, "DJANGO_SETTINGS_MODULE": "pulpcore.app.settings"}
        with (
            running(instance, [*command, *OURS], url, pass_fds=[fd], **environ) as server,
            Client(server) as client,
        ):
            port = client.socket.getsockname()[1]
            assert client.send(GET % f"/nodelay/{port}".encode()).response() == (200, b"at once")


def test_half_closed_connection_with_an_incomplete_request_is_closed(server):
    for start in (
        b"",
        b"GET / HT",
        POST.replace(b"/echo", b"/echo/half") + b"Content-Length: 9\r\n\r\na",
    ):
        with Client(server).send(start) as client:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.rest() == b""
    wait_until(lambda: "truncated: half" in events(server))


def test_shutdown_answers_requests_received_before_it(instance, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    get = GET % f"/pulp/content/{base}/a.txt".encode()
    with serving(instance, *OURS) as server, ExitStack() as clients:
        new = clients.enter_context(Client(server))
        idle = clients.enter_context(Client(server).send(get))
        assert idle.response() == (200, b"a")
        server.process.send_signal(signal.SIGSTOP)
        try:
            server.process.terminate()  # is handled first after SIGCONT
            for client in (new, idle):
                client.send(get)
        finally:
            server.process.send_signal(signal.SIGCONT)
        for client in (new, idle):
            assert client.response() == (200, b"a")
            assert client.rest() == b""
        server.process.wait(300)


# Limit of connections


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise this process's limit of open files above 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("needs a limit of 4096 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def few_files(instance: Instance, loop: str) -> Iterator[Server]:
    """Run Pulp with our protocol class and a limit of 1,024 open files."""
    port = free_port()
    (program,) = in_venv(["uvicorn"])
    command = [
        "sh",
        "-c",
        'ulimit -n 1024; exec "$0" "$@"',
        program,
        "pulpcore.routing:application",
    ]
    command += ["--port", str(port), "--loop", loop, *OURS]
    with running(instance, command, f"http://127.0.0.1:{port}") as server:
        yield server


def test_connection_limit_is_not_exhausted_by_silent_or_slow_clients(
    instance, orm, loop, many_files
):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    with few_files(instance, loop) as server, ExitStack() as clients:
        for _ in range(1100):
            clients.enter_context(Client(server))
        for _ in range(20):
            url = f"{server.content_url}{base}/a.txt"
            assert httpx.get(url).content == b"a"
        slow = [clients.enter_context(Client(server)) for _ in range(1000)]
        for byte in b"GET":
            for client in slow:
                send_if_open(client, bytes([byte]))
            assert httpx.get(url).content == b"a"


def send_if_open(client: Client, data: bytes) -> None:
    with suppress(OSError):
        client.send(data)


def test_connection_limit_returns_503_and_reserves_connections_for_probes(instance, loop):
    environ = {
        "PULP_CONTENT_STAR_CONNECTIONS": "48",
        "PULP_API_ROOT_REWRITE_HEADER": "X-API-Root",  # probes do not send it
    }
    with (
        serving_protocol_app(instance, *OURS, "--loop", loop, **environ) as server,
        ExitStack() as clients,
    ):
        busy = [clients.enter_context(Client(server)) for _ in range(32)]
        for number, client in enumerate(busy):
            client.send(GET % f"/wait/{number}".encode())
            if number:
                clients.callback(client.reset)
        probe, api_probe = (GET % path for path in (b"/pulp/content/livez", b"/pulp/api/v3/livez/"))
        wait_until(lambda: status_after(server, GET % b"/plain") == 503)
        for _ in range(20):
            assert status_after(server, probe) == status_after(server, api_probe) == 200
            assert status_after(server, GET % b"/plain") == 503
        silent = [clients.enter_context(Client(server)) for _ in range(100)]
        assert status_after(server, probe) == 200
        refused = silent[0].rest()
        assert b"HTTP/1.1 503" in refused
        assert b"retry-after: " in refused.lower()
        with Client(server).send(GET % b"/plain") as client:
            assert b"retry-after: " in client.rest().lower()
        health = clients.enter_context(Client(server))
        for _ in range(1200):
            assert health.send(probe).response()[0] == 200
        busy[0].reset()
        wait_until(lambda: status_after(server, GET % b"/plain") == 200)
        assert health.send(GET % b"/plain").response()[0] == 200


def test_connection_limit_while_a_refused_client_reads_its_response(instance, loop):
    """Its connection is idle and half-closed: a second response cannot be sent on it."""
    limit = {"PULP_CONTENT_STAR_CONNECTIONS": "48"}
    with (
        serving_protocol_app(instance, *OURS, "--loop", loop, **limit) as server,
        ExitStack() as clients,
    ):
        for number in range(32):
            clients.enter_context(Client(server).send(GET % f"/wait/{number}".encode()))
        wait_until(lambda: status_after(server, GET % b"/plain") == 503)
        refused = clients.enter_context(Client(server).send(b"nonsense\r\n\r\n"))
        assert refused.response()[0] == 400
        silent = [clients.enter_context(Client(server)) for _ in range(20)]
        assert status_of(silent[0].rest()) == 503
        assert refused.rest() == b""
        assert "Traceback" not in server.said()


@pytest.mark.parametrize("path", [b"/memory/24000000", b"/large"])
def test_connection_limit_includes_clients_that_do_not_read(instance, loop, path):
    """Their responses are complete, and in the buffers of the process."""
    limit = {"PULP_CONTENT_STAR_CONNECTIONS": "32"}
    with (
        serving_protocol_app(instance, *OURS, "--loop", loop, **limit) as server,
        ExitStack() as clients,
    ):
        for _ in range(80):
            client = clients.enter_context(Client(server).send(GET % path))
            assert select.select([client.socket], [], [], 300)[0]
        assert status_after(server, GET % b"/plain") == 200
        assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 80


def test_connection_limit_aborts_clients_that_read_nothing(instance, loop):
    """Their responses are not complete; those that read go on."""
    environ = {
        "PULP_CONTENT_STAR_CONNECTIONS": "48",
        "STALLED_TIMEOUT": "10",
        "STALLED_INTERVAL": "0.1",
    }
    with (
        serving_protocol_app(instance, *OURS, "--loop", loop, **environ) as server,
        Client(server).send(GET % b"/endless/read") as reader,
        ExitStack() as clients,
    ):
        ended = threading.Event()
        reading = threading.Thread(target=read_until, args=[reader, ended])
        reading.start()
        clients.callback(reading.join)
        clients.callback(ended.set)
        for number in range(31):
            clients.enter_context(Client(server).send(GET % b"/endless/%d" % number))
        wait_until(lambda: status_after(server, GET % b"/plain") == 503)
        wait_until(lambda: status_after(server, GET % b"/plain") == 200)
        aborted = json.loads(httpx.get(f"{server.url}/events").text)
        assert aborted
        assert "disconnect: endless read" not in aborted
        assert "have been closed, whose clients had read nothing for 10 seconds" in server.said()


def read_until(client: Client, ended: threading.Event) -> None:
    while not ended.is_set() and client.socket.recv(1 << 20):
        pass


def status_after(server: Server, data: bytes) -> int:
    with Client(server).send(data) as client:
        return client.response()[0]


# TLS


@pytest.fixture(scope="module")
def encrypted(instance: Instance, loop: str, tls_options: list[str]) -> Iterator[Server]:
    """As `impatient`, with TLS and a limit of connections."""
    environ = {
        "PULP_CONTENT_STAR_CONNECTIONS": "64",
        "PULP_CONTENT_STAR_HEAD_TIMEOUT": "2",
        "INTERVAL": "0.1",
    }
    options = (*OURS, "--loop", loop, *tls_options, "--timeout-keep-alive", "1")
    with serving_protocol_app(instance, *options, **environ) as running:
        yield running


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_tls_handshake_has_the_timeout_of_a_head(encrypted, start):
    with connect(encrypted) as client:
        client.sendall(start)
        assert client.recv(1) == b""


def test_tls_handshakes_are_connections_of_the_limit(instance, loop, tls_options):
    """Those that stall are closed for new ones."""
    limit = {"PULP_CONTENT_STAR_CONNECTIONS": "48"}
    options = (*OURS, "--loop", loop, *tls_options)
    with (
        serving_protocol_app(instance, *options, **limit) as server,
        ExitStack() as clients,
    ):
        stalled = [clients.enter_context(connect(server)) for _ in range(100)]
        for client in stalled[80:]:
            client.sendall(b"\x16\x03\x01\x02\x00")
        assert status_after(server, GET % b"/plain") == 200
        assert stalled[0].recv(1) == b""
        assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 90


def test_tls_handshake_that_fails_leaves_nothing_open(encrypted):
    folder = Path(f"/proc/{encrypted.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for data in (GET % b"/plain", b"\x16\x03\x01\x00\x05hello", b"\x15\x03\x01\x00\x02\x02\x28"):
        with connect(encrypted) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while client.recv(65536):
                    pass
    wait_until(lambda: len(list(folder.iterdir())) <= before)
    assert "Traceback" not in encrypted.said()


def test_tls_client_gets_the_error_response_to_a_large_head(encrypted):
    with Client(encrypted).send(GET[:-2] % b"/" + b"X: ") as client:
        for _ in range(4):
            client.send(b"a" * (1 << 20))
        assert client.response()[0] == 431


def test_tls_client_that_does_not_read_stops_no_deadline(encrypted):
    with Client(encrypted).send(GET % b"/large") as slow:
        assert select.select([slow.socket], [], [], 300)[0]
        for _ in range(2):
            with Client(encrypted).send(b"GET / HTTP/1.1\r\n") as client:
                assert status_of(client.rest()) == 408
        assert slow.response() == (200, LARGE.encode())
    assert "Traceback" not in encrypted.said()


@pytest.mark.parametrize("ends", ["tls", "tcp"])
def test_tls_client_that_ends_is_a_client_disconnect(encrypted, loop, ends):
    """Event loops drop further data of its response."""
    name = f"{ends}-{loop}"
    with Client(encrypted).send(GET % f"/wait/{name}".encode()) as client:
        wait_until(lambda: f"waits: {name}" in events(encrypted))
        if ends == "tcp":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.socket.settimeout(0)
            with suppress(ssl.SSLError):
                client.socket.unwrap()
        wait_until(lambda: f"disconnect: {name}" in events(encrypted))


def test_tls_connections_beyond_the_limit_are_closed_at_once(instance, loop, tls_options):
    """Those clients do not end TLS, and another timeout would come first."""
    environ = {"PULP_CONTENT_STAR_CONNECTIONS": "48", "LINGER_TIMEOUT": "300"}
    options = (*OURS, "--loop", loop, *tls_options)
    with (
        serving_protocol_app(instance, *options, **environ) as server,
        ExitStack() as clients,
    ):
        for number in range(32):
            clients.enter_context(Client(server).send(GET % f"/wait/{number}".encode()))
        wait_until(lambda: status_after(server, GET % b"/plain") == 503)
        folder = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(folder.iterdir()))
        silent = [clients.enter_context(Client(server)) for _ in range(100)]
        assert silent[0].response()[0] == 503
        assert len(list(folder.iterdir())) < before + 50


def test_tls_client_that_does_not_read_is_not_read_from(encrypted, loop):
    """TLS could have to respond to what it reads."""
    name, sent, part = f"unread-{loop}", 0, bytes(1 << 20)
    post = POST.replace(b"/echo", f"/endless/{name}".encode())
    post += b"Content-Length: 1000000000\r\n\r\n"
    with Client(encrypted).send(post) as client:
        assert select.select([client.socket], [], [], 300)[0]
        client.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                sent += client.socket.send(part)
    wait_until(lambda: f"disconnect: endless {name}" in events(encrypted))


def test_tls_client_that_half_closes_tcp_receives_pipelined_responses(encrypted, loop):
    """A TLS client ends TCP without ending TLS; asyncio drops all that is written from then on."""
    name = f"half-{loop}"
    with Client(encrypted) as client:
        client.send(GET % f"/endless/{name}".encode() + GET % b"/plain")
        assert client.file.readline().startswith(b"HTTP/1.1 200")
        with socket.socket(fileno=os.dup(client.socket.fileno())) as tcp:
            tcp.shutdown(socket.SHUT_WR)
        assert len(client.file.read(20 << 20)) == 20 << 20
    wait_until(lambda: f"disconnect: endless {name}" in events(encrypted))


def test_tls_connection_that_is_closed_twice_stops_no_deadline(instance, loop, tls_options):
    """uvicorn closes it again after an exception of the application."""
    options = (*OURS, "--loop", loop, *tls_options)
    environ = {"PULP_CONTENT_STAR_HEAD_TIMEOUT": "1", "INTERVAL": "0.1", "LINGER_TIMEOUT": "1"}
    last = GET[:-2] % b"/fails-late" + b"Connection: close\r\n\r\n"
    with (
        serving_protocol_app(instance, *options, **environ) as server,
        Client(server).send(last) as client,
    ):
        assert client.response() == (200, b"complete")
        for _ in range(3):
            assert status_of(send(server, b"GET / HTTP/1.1\r\n")) == 408
        assert "Exception in callback" not in server.said()


def test_tls_handshake_under_way_at_shutdown_is_completed(instance, loop, tls_options):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = UNVERIFIED.wrap_bio(incoming, outgoing)
    with (
        serving_protocol_app(
            instance, *OURS, "--loop", loop, *tls_options, SHUTDOWN_GRACE="300"
        ) as server,
        connect(server) as client,
    ):

        def exchange(step: Callable[[], T]) -> T:
            while True:
                with suppress(ssl.SSLWantReadError):
                    return step()
                client.sendall(outgoing.read())
                data = client.recv(1 << 16)
                assert data, "the connection has ended"
                incoming.write(data)

        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        client.sendall(hello[:10])
        assert status_after(server, GET % b"/plain") == 200, "the handshake has begun"
        server.process.terminate()
        wait_until(lambda: "Waiting for connections to close" in server.said())
        client.sendall(hello[10:])
        exchange(tls.do_handshake)
        tls.write(GET % b"/plain")
        assert status_of(exchange(lambda: tls.read(1000))) == 200
        client.close()
        server.process.wait(300)


# Plain uvicorn


def test_protocol_class_of_uvicorn_is_warned_about_at_start(any_server):
    is_ours = OURS[1] in any_server.process.args
    warnings = any_server.said().count("--http pulpcore.content_star.server:HttpProtocol")
    assert warnings == (0 if is_ours else 1)


def test_protocol_class_of_ours_is_not_warned_about(instance):
    assert "--http" not in (instance.state.logs / "uvicorn.log").read_text()
