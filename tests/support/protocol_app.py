"""An ASGI application for tests of the server: echoes requests, streams, and responds on demand."""

import asyncio
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from starlette.types import Receive, Scope, Send

from pulpcore.content_star.middleware.conformance import Conformance
from pulpcore.content_star.responses.disconnect import until_disconnect
from pulpcore.content_star.responses.immediate import ImmediateResponse, ResponseHead
from pulpcore.content_star.server import closing, connections, handshake, sockets

# Constants that tests change.
for module, name in (
    (closing, "HALF_CLOSED_TIMEOUT"),
    (closing, "LINGER_TIMEOUT"),
    (closing, "SHUTDOWN_GRACE"),
    (handshake, "SHUTDOWN_GRACE"),
    (connections, "INTERVAL"),
    (connections, "STALLED_INTERVAL"),
    (connections, "STALLED_TIMEOUT"),
    (sockets, "PROBE_SECONDS"),
):
    if name in os.environ:
        setattr(module, name, type(getattr(module, name))(os.environ[name]))

LARGE = "large " * 4_000_000
EVENTS: list[str] = []
GATES: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


async def wait(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond after a request for `/open/<name>`, unless the client disconnects."""
    EVENTS.append(f"waits: {name}")
    gate = asyncio.create_task(GATES[name].wait())
    leaving = asyncio.create_task(disconnected(receive))
    await asyncio.wait({gate, leaving}, return_when=asyncio.FIRST_COMPLETED)
    for task in (gate, leaving):
        task.cancel()
    if gate.done():
        await respond(send, f"waited for {name}")
    else:
        EVENTS.append(f"disconnect: {name}")


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def open_gate(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    GATES[name].set()
    await respond(send, "open")


async def events(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, json.dumps(EVENTS))


async def echo(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with headers and body of the request as JSON, after the whole body."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            headers = [[key.decode(), value.decode("latin-1")] for key, value in scope["headers"]]
            found = {"method": scope["method"], "headers": headers, "body": body.decode("latin-1")}
            return await respond(send, json.dumps(found))
    EVENTS.append(f"truncated: {name}")


async def watched(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Wait for the body while a task that has waited for it before is being cancelled."""
    await receive()
    watcher = asyncio.create_task(receive())
    await asyncio.sleep(0.1)  # it waits
    watcher.cancel()
    await receive()
    await respond(send, "received")


async def stream(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a body without Content-Length in three parts."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one\n", b"two\n", b"three\n"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def plain(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond without reading the body."""
    await respond(send, "plain")


async def large(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, LARGE)


async def endless(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Stream until the client disconnects."""

    async def parts() -> None:
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
            await asyncio.sleep(0)

    await send({"type": "http.response.start", "status": 200, "headers": []})
    await until_disconnect(receive, parts)
    EVENTS.append(f"disconnect: endless {name}")


async def block(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """End the last response of a connection, and block the event loop until a file exists."""
    headers = [(b"content-length", b"4"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"last", "more_body": True})
    while not Path(scope["query_string"].decode()).exists():  # noqa: ASYNC240
        time.sleep(0.01)  # noqa: ASYNC251
    await send({"type": "http.response.body", "body": b""})
    EVENTS.append(f"blocked: {name}")


async def fails_late(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, "complete")
    raise RuntimeError("after the response")


async def fails(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("of the application")


async def nodelay(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer whether the connection of the client with the port `name` sends without delay."""
    for fd in os.listdir("/proc/self/fd"):
        with (
            suppress(OSError, IndexError),
            socket.socket(fileno=os.dup(int(fd))) as connection,
        ):
            if connection.getpeername()[1] == int(name):
                option = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                return await respond(send, "at once" if option else "delayed")
    await respond(send, "unknown")


async def respond(send: Send, text: str) -> None:
    headers = [(b"content-length", b"%d" % len(text.encode())), (b"etag", b'"1"')]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


PATHS: dict[str, Callable[[str, Scope, Receive, Send], Awaitable[None]]] = {
    "wait": wait,
    "open": open_gate,
    "events": events,
    "echo": echo,
    "watched": watched,
    "stream": stream,
    "large": large,
    "endless": endless,
    "block": block,
    "fails": fails,
    "fails-late": fails_late,
    "nodelay": nodelay,
}


class Application:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        _, kind, *names = scope["path"].split("/")
        await PATHS.get(kind, plain)("".join(names), scope, receive, send)

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        """Have a body of a number of bytes in memory at `/memory/<number>`."""
        _, kind, *names = scope["path"].split("/")
        if kind == "fails":
            raise RuntimeError("as the call does")
        if kind != "memory":
            return None
        body = b"m" * int(names[0])
        return ImmediateResponse(
            ResponseHead(200, [(b"content-length", b"%d" % len(body))]), [], body
        )


app = Conformance(Application())
