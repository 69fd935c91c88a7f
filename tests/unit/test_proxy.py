"""Reverse proxy between a real client and a real server."""

import asyncio
import gzip
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
import uvicorn
from aiohttp import web
from starlette.routing import Router

from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.middleware.errors import Errors
from pulpcore.content_star.plugin_host.proxy import Proxy, proxy_client
from tests.support.asgi import state_of
from tests.support.instance import wait_until
from tests.support.server import free_port

PIECE = b"x" * 100_000


ABOUT_THE_BODY = (b"content-length", b"transfer-encoding")


class Backend:
    """The server behind."""

    def __init__(self) -> None:
        self.url = ""
        self.running = 0
        self.whole: list[bytes] = []
        """Bodies that were received to their end."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        try:
            name = request.path.strip("/").split("/")[0]
            return await getattr(self, name, self.facts)(request)
        finally:
            self.running -= 1

    async def facts(self, request: web.Request) -> web.Response:
        headers = [[name, value] for name, value in request.headers.items()]
        return web.json_response(
            {"method": request.method, "target": request.raw_path, "headers": headers},
            headers={"X-Method": request.method},
        )

    async def echo(self, request: web.Request) -> web.StreamResponse:
        """Send the body back, piece by piece as it comes."""
        response = web.StreamResponse(status=201)
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def encoded(self, request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"text"), headers={"Content-Encoding": "gzip"})

    async def moved(self, request: web.Request) -> web.Response:
        response = web.HTTPFound("/elsewhere?a=%26")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        response.headers["Connection"] = "X-Private"
        response.headers["X-Private"] = "of the connection"
        raise response

    async def upload(self, request: web.Request) -> web.Response:
        self.whole.append(await request.read())
        return web.Response()

    async def early(self, request: web.Request) -> web.Response:
        return web.Response(status=413)

    async def empty(self, request: web.Request) -> web.Response:
        return web.Response(status=304, headers={"ETag": '"x"'})

    async def cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "200000"})
        await response.prepare(request)
        await response.write(PIECE)
        assert request.transport is not None
        request.transport.close()
        return response

    async def hang(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PIECE)
        await asyncio.sleep(60)
        return response


@contextmanager
def in_thread(start) -> Iterator[None]:
    """Run the context manager `start` in an event loop of its own."""
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def main() -> None:
        async with start():
            up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert up.wait(300)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    backend = Backend()

    @asynccontextmanager
    async def start():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", backend.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        backend.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
        await runner.cleanup()

    with in_thread(start):
        yield backend


def gateway(url: str, **options):
    """Run a uvicorn with a proxy of `url`, at its own URL."""
    port = free_port()

    @asynccontextmanager
    async def lifespan(app):
        async with proxy_client() as session:
            yield state_of(proxy=session)

    async def proxy(scope, receive, send):
        if (b"x-version", b"2") in scope["headers"]:
            # As servers that speak HTTP/2 have it: nothing is said about the body.
            headers = [each for each in scope["headers"] if each[0] not in ABOUT_THE_BODY]
            scope |= {"http_version": "2", "headers": headers}
        await Proxy(url)(scope, receive, send)

    app = Router(default=CorrelationId(Errors(proxy)), lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", **options))

    @asynccontextmanager
    async def start():
        serving = asyncio.create_task(server.serve())
        await asyncio.to_thread(wait_until, lambda: server.started)
        yield
        server.should_exit = True
        await serving

    return f"http://127.0.0.1:{port}", start


@pytest.fixture(scope="module")
def client(backend) -> Iterator[httpx.Client]:
    url, start = gateway(backend.url)
    with in_thread(start), httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_proxy_forwards_method_path_query_and_host(client, method):
    target = "/a%2Fb%C3%A9/c%20d?x=%2F&y"
    response = client.request(method, target, headers={"Host": "pulp.example"})
    assert response.headers["X-Method"] == method
    if method != "HEAD":
        facts = response.json()
        assert facts["target"] == target
        assert ["Host", "pulp.example"] in facts["headers"]


def test_proxy_escapes_invalid_bytes_of_the_path(client):
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
    connection.putrequest("GET", "/", skip_host=True)
    connection._buffer[0] = b"GET /caf\xe9 HTTP/1.1"
    connection.putheader("Host", "x")
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    assert response.status == 400 or b"/caf%E9" in body
    connection.close()


def test_proxy_forwards_end_to_end_headers_only(client):
    sent = [
        ("Connection", "keep-alive, X-Secret"),
        ("X-Secret", "1"),
        ("TE", "trailers"),
        ("Accept-Encoding", "br"),
        ("X-Twice", "a"),
        ("X-Twice", "b"),
        ("X-Forwarded-Proto", "gopher"),
        ("Authorization", "Basic eDp5"),
    ]
    headers = client.get("/", headers=sent).json()["headers"]
    names = [name.lower() for name, _ in headers]
    assert not {"x-secret", "te"} & set(names)
    assert [value for name, value in headers if name.lower() == "x-twice"] == ["a", "b"]
    given = {name.lower(): value for name, value in headers}
    assert given["accept-encoding"] == "br"
    assert given["authorization"] == "Basic eDp5"
    assert given["x-forwarded-for"] == "127.0.0.1"
    assert given["x-forwarded-proto"] == "http"
    assert given["via"] == "1.1 pulp-content-star"


@pytest.mark.parametrize("connection", ["keep-alive", "Via, X-Forwarded-For, Forwarded"])
def test_proxy_appends_to_via_and_forwarded(client, connection):
    """In one line each: servers that read one line of a header see the whole list."""
    sent = [
        ("Connection", connection),
        ("Via", "1.0 squid"),
        ("Via", "1.1 nginx"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-For", "203.0.113.7, 192.0.2.1"),
        ("Forwarded", "for=203.0.113.7"),
    ]
    headers = client.get("/", headers=sent).json()["headers"]
    given = [(name.lower(), value) for name, value in headers]
    assert [value for name, value in given if name == "via"] == [
        "1.0 squid, 1.1 nginx, 1.1 pulp-content-star"
    ]
    # The gateway's server believes the test, which is on its own machine, and takes the client.
    assert [value for name, value in given if name == "x-forwarded-for"] == [
        "1.2.3.4, 203.0.113.7, 192.0.2.1, 192.0.2.1"
    ]
    assert [value for name, value in given if name == "forwarded"] == [
        "for=203.0.113.7, for=192.0.2.1;proto=http"
    ]


def test_proxy_quotes_ipv6_in_forwarded_and_adds_no_header(client):
    sent = {"X-Forwarded-For": "2001:db8::1", "Forwarded": "for=unknown"}
    given = dict(client.get("/", headers=sent).json()["headers"])
    assert given["Forwarded"] == 'for=unknown, for="[2001:db8::1]";proto=http'
    assert "Forwarded" not in dict(client.get("/").json()["headers"])


def test_proxy_adds_no_client_headers(client):
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
    connection.putrequest("GET", "/", skip_accept_encoding=True)
    connection.endheaders()
    facts = json.load(connection.getresponse())
    names = {name.lower() for name, _ in facts["headers"]}
    assert not names & {"accept", "accept-encoding", "user-agent", "content-type", "cookie"}
    connection.close()


def test_proxy_forwards_the_correlation_id(client):
    response = client.get("/")
    given = dict(response.json()["headers"])
    assert response.headers.get_list("Correlation-ID") == [given["Correlation-ID"]]


def test_proxy_streams_both_bodies(client):
    """Each piece comes back before the next is sent: the whole is not awaited."""
    with socket.create_connection((client.base_url.host, client.base_url.port), 30) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with connection.makefile("rb") as answer:
            for number in range(5):
                piece = b"piece %d" % number
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                while not number and answer.readline() != b"\r\n":
                    pass
                assert int(answer.readline(), 16) == len(piece)
                assert answer.readline() == piece + b"\r\n"
            connection.sendall(b"0\r\n\r\n")
            assert answer.readline() == b"0\r\n"


def test_proxy_keeps_content_length(client):
    response = client.post("/echo", content=PIECE)
    assert response.content == PIECE


@pytest.mark.parametrize("body", [b"", PIECE])
def test_proxy_forwards_a_body_without_length_over_http_2(client, body):
    assert client.post("/echo", content=body, headers={"X-Version": "2"}).content == body
    assert client.get("/", headers={"X-Version": "2"}).status_code == 200


def test_proxy_sends_a_response_before_the_end_of_the_body(client):
    assert client.post("/early", content=PIECE * 100).status_code == 413


def test_proxy_keeps_content_encoding(client):
    with client.stream("GET", "/encoded") as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Content-Length"]) == len(raw)
    assert gzip.decompress(raw) == b"text"


def test_proxy_returns_redirects_and_cookies(client):
    response = client.get("/moved")
    assert (response.status_code, response.headers["Location"]) == (302, "/elsewhere?a=%26")
    assert len(response.headers.get_list("Set-Cookie")) == 2
    assert "X-Private" not in response.headers
    assert len(response.headers.get_list("Date")) == 1
    given = dict(client.get("/").json()["headers"])
    assert "Cookie" not in given or "a=1" in given["Cookie"], "only what the client itself keeps"


def test_proxy_ends_responses_without_a_body(client):
    response = client.get("/empty")
    assert (response.status_code, response.headers["ETag"]) == (304, '"x"')
    assert client.get("/").status_code == 200


def test_proxy_closes_the_connection_for_a_truncated_response(client):
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/cut")


def test_proxy_disconnects_from_the_server_on_a_client_disconnect(client, backend):
    with client.stream("GET", "/hang") as response:
        pieces = response.iter_raw()  # closes the connection when it is collected
        next(pieces)
        assert backend.running
    wait_until(lambda: not backend.running)


def test_proxy_aborts_a_truncated_upload(client, backend):
    assert client.post("/upload", content=iter([b"first"])).status_code == 200
    with socket.create_connection((client.base_url.host, client.base_url.port), 30) as connection:
        head = b"PUT /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"4\r\nhalf\r\n")
        wait_until(lambda: backend.running)
    wait_until(lambda: not backend.running)
    assert backend.whole == [b"first"]


def test_proxy_returns_502_for_an_unreachable_server(backend):
    url, start = gateway(f"http://127.0.0.1:{free_port()}")
    with in_thread(start):
        response = httpx.get(url)
    assert response.status_code == 502
    assert "127.0.0.1" not in response.text


def test_proxy_returns_508_for_a_loop(client):
    assert client.get("/", headers={"Via": "1.1 cache"}).status_code == 200
    assert client.get("/", headers={"Via": "1.1 pulp-content-star"}).status_code == 508
    lines = [("Via", "1.1 cache"), ("Via", "1.1 pulp-content-star, 1.1 nginx")]
    assert client.get("/", headers=lines).status_code == 508


def test_proxy_removes_the_root_path(backend):
    """It has been stripped by the proxy in front, which the server behind has the same of."""
    url, start = gateway(backend.url, root_path="/below")
    with in_thread(start):
        assert httpx.get(f"{url}/a%2Fb?c").json()["target"] == "/a%2Fb?c"


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        (b"@127.0.0.2/", b"400"),
        (b"%2Fa/b", b"400"),
        (b".elsewhere/", b"400"),
        (b"//elsewhere/a", b'"target": "//elsewhere/a"'),
        (b"/a#b?c", b'"target": "/a%23b?c"'),
        (b"/a/../b", b'"target": "/a/../b"'),
    ],
)
def test_proxy_sends_no_target_to_another_server(backend, target, answer):
    """httptools refuses most of these; h11 does not."""
    url, start = gateway(backend.url, http="h11")
    with in_thread(start), socket.create_connection(("127.0.0.1", httpx.URL(url).port), 30) as one:
        one.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        with one.makefile("rb") as response:
            assert answer in response.read()


def test_proxy_forwards_no_smuggled_request(backend):
    """Of two lengths one is a lie; httptools refuses both, h11 does not."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    url, start = gateway(backend.url, http="h11")
    with in_thread(start), socket.create_connection(("127.0.0.1", httpx.URL(url).port), 30) as one:
        one.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
        )
        response = http.client.HTTPResponse(one)
        response.begin()
        assert response.read() == smuggled, "a body, whole and no more than that"
