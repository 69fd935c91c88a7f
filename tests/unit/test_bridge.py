"""aiohttp applications over ASGI, for clients and handlers that no server of the tests has."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientError, web
from django.test import override_settings

from pulpcore.content_star.aiohttp_bridge.application import Bridge
from pulpcore.content_star.aiohttp_bridge.modules import _covers_pulp, prefix_of
from pulpcore.content_star.aiohttp_bridge.run import ConnectionClosed
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.middleware.errors import Errors
from tests.support.asgi import state_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Client:
    """One request, whose messages the test sends and collects itself."""

    def __init__(self, method: str = "GET", path: str = "/x", headers=(), root_path: str = ""):
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": b"",
            "headers": list(headers),
            "scheme": "https",
            "http_version": "2",
            "client": ("192.0.2.1", 1234),
            "server": ("pulp", 443),
            "state": state_of(route_executor=DatabaseExecutor(1)),
        }
        self.sent: list[dict] = []
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.answered = asyncio.Event()
        self.received = 0

    async def receive(self) -> dict:
        message = await self.messages.get()
        self.received += 1
        return message

    async def send(self, message: dict) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.answered.set()

    def sends(self, body: bytes = b"", more: bool = False) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leaves(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


def talk(
    client: Client,
    handler: Handler,
    *,
    during: Callable[[Client], Awaitable[None]] | None = None,
    path: str = "/x",
) -> Client:
    """Have an application with `handler` answer; `during` is done meanwhile."""

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", path, handler)
        runner = web.AppRunner(app)
        await runner.setup()
        if during is None:
            client.sends()
        try:
            async with asyncio.timeout(300), asyncio.TaskGroup() as tasks:
                tasks.create_task(Errors(Bridge(app))(client.scope, client.receive, client.send))
                if during is not None:
                    tasks.create_task(during(client))
        finally:
            await runner.cleanup()

    try:
        asyncio.run(main())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return client


def test_aiohttp_request_has_the_data_of_the_scope():
    async def handler(request: web.Request) -> web.Response:
        assert request.remote == "192.0.2.1"
        assert (request.scheme, request.secure) == ("https", True)
        assert str(request.url) == "https://pulp.example/x"
        assert request.transport is not None
        assert request.transport.get_extra_info("peername") == ("192.0.2.1", 1234)
        return web.Response(text=await request.text())

    client = talk(Client(headers=[(b"host", b"pulp.example")]), handler)
    assert (client.status, client.body) == (200, b"")


def test_root_path_is_not_part_of_aiohttp_routes():
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    client = talk(Client(path="/below/x", root_path="/below"), handler)
    assert client.body == b"/x"


def test_disconnect_after_the_response_does_not_cancel_the_handler():
    """Servers say `http.disconnect` once the response has been sent; handlers may go on."""
    done = []

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write_eof(b"all")
        for _ in range(20):
            await asyncio.sleep(0)
        done.append(True)
        return response

    async def during(client: Client) -> None:
        client.sends()
        await client.answered.wait()
        client.leaves()

    client = talk(Client(), handler, during=during)
    assert (client.body, done) == (b"all", [True])


def test_disconnect_during_an_upload_cancels_the_handler(caplog):
    cancelled = []

    async def handler(request: web.Request) -> web.Response:
        try:
            return web.Response(body=await request.read())
        finally:
            cancelled.append(True)

    async def during(client: Client) -> None:
        client.sends(b"half", more=True)
        client.leaves()

    client = talk(Client("POST"), handler, during=during)
    assert (client.sent, cancelled) == ([], [True])
    assert not caplog.records


def test_backpressure_limits_the_buffered_request_body():
    read = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await read.wait()
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.Response(text=str(size))

    async def during(client: Client) -> None:
        for _ in range(100):
            client.sends(b"x" * 65536, more=True)
        client.sends()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert client.received < 10
        read.set()

    assert talk(Client("POST"), handler, during=during).body == b"6553600"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClientError("https://user:secret@remote/"), 502),
        (TimeoutError("secret"), 504),
        (ValueError("other"), 500),
        (ConnectionResetError("not the client's"), 500),
        (web.HTTPTooManyRequests(), 429),
    ],
    ids=repr,
)
def test_error_response_of_a_handler_contains_no_secrets(error, status, caplog):
    async def handler(request: web.Request) -> web.Response:
        raise error

    caplog.set_level(logging.INFO)
    client = talk(Client(), handler)
    assert client.status == status
    assert b"secret" not in client.body
    assert "secret" not in caplog.text


def test_handler_error_after_the_start_is_raised():
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"part")
        raise ValueError("in the middle")

    client = Client()
    with pytest.raises(ValueError, match="in the middle"):
        talk(client, handler)
    assert client.sent[-1]["more_body"]


def test_handler_that_closes_the_connection_raises_connection_closed():
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    with pytest.raises(ConnectionClosed):
        talk(Client(), handler)


def test_body_is_truncated_to_content_length():
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "5"})
        await response.prepare(request)
        await response.write(b"1234")
        await response.write(b"5678")
        return response

    client = talk(Client(), handler)
    assert (client.body, client.headers[b"content-length"]) == (b"12345", b"5")


def test_websocket_over_http_returns_501():
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        return response

    headers = [
        (b"upgrade", b"websocket"),
        (b"connection", b"upgrade"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
    ]
    client = talk(Client(headers=headers), handler)
    assert (client.status, client.body) == (501, b"WebSocket is not supported.")


def test_expect_100_continue_is_left_to_the_server():
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="fine")

    client = talk(Client("PUT", headers=[(b"expect", b"100-continue")]), handler)
    assert client.body == b"fine"


def test_file_response_prepared_by_a_handler_is_sent(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789")

    async def handler(request: web.Request) -> web.FileResponse:
        response = web.FileResponse(tmp_path / "a.txt")
        await response.prepare(request)
        assert (response.prepared, response.status) == (True, 206)
        return response

    client = talk(Client(headers=[(b"range", b"bytes=2-4")]), handler)
    assert (client.status, client.body) == (206, b"234")


def test_invalid_path_is_refused_before_the_handler():
    async def handler(request: web.Request) -> web.Response:
        raise AssertionError

    for path, status in {"/x%00": 400, "/x%ff": 400, "/" + "x" * 9000: 414}.items():
        assert talk(Client(path=path), handler, path="/{name}").status == status


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/pulp/container/{path:.+}/blobs/sha256:{digest:.+}", "/pulp/container/"),
        ("/pulp/container/{pulp_domain}/{path}", "/pulp/container/"),
        ("/pulp/x", "/pulp/x/"),
        ("/pulp/x/", "/pulp/x/"),
        ("/pulp/x/{name}.json", "/pulp/x/"),
        ("/pulp/x-{name}/y", "/pulp/"),
        ("/{anything}", "/"),
        ("/", "/"),
        (r"/a/{x:\d{2}}/b", "/a/"),
    ],
)
def test_prefix_of_a_route_is_its_static_start(path, prefix):
    resource = web.Application().router.add_resource(path)
    assert prefix_of(resource) == prefix


@pytest.mark.parametrize("v3_api_root", ["/pulp/api/v3/", "/<path:api_root>/api/v3/"])
def test_routes_cover_the_api_also_with_a_header_for_its_root(v3_api_root):
    paths = {"API_ROOT": "/pulp/", "CONTENT_PATH_PREFIX": "/content/", "V3_API_ROOT": v3_api_root}
    with override_settings(**paths):
        covering = {prefix for prefix in ("/", "/pulp/", "/pulp/other/") if _covers_pulp(prefix)}
    assert covering == {"/", "/pulp/"}


def test_prefix_of_sub_applications_and_static_folders(tmp_path):
    app = web.Application()
    sub = web.Application()
    assert prefix_of(app.add_subapp("/pulp/part/", sub)) == "/pulp/part/"
    assert prefix_of(app.add_domain("example.org", web.Application())) == "/"
    assert prefix_of(app.router.add_static("/pulp/static", tmp_path)) == "/pulp/static/"
