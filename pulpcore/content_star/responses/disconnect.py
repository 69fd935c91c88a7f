"""Client disconnects: wait for one, and cancel work or an application when it comes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio import CancelScope
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def wait_for_disconnect(
    receive: Receive, on_message: Callable[[Message], Awaitable[None]] | None = None
) -> None:
    """Receive messages until the client disconnects; others are passed to `on_message`."""
    while (message := await receive())["type"] != "http.disconnect":
        if on_message is not None:
            await on_message(message)


async def until_disconnect(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Await `work`, and cancel it on a client disconnect."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
            await work()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _cancel_on_disconnect(receive: Receive, scope: CancelScope) -> None:
    await wait_for_disconnect(receive)
    scope.cancel()


# Seconds that a response may take before its client is watched, and between two checks for those.
WATCH_AFTER = 0.5

# Bytes of a request body that are received to notice the disconnect behind them.
MAX_UNREAD = 16 * 1024


class PendingRequests:
    """Cancels work for clients that disconnect while they wait for the start of a response.

    To watch a client costs a task, more than most of the work; so only those are watched that have
    been waiting for a while. `DisconnectWatcher` is for the response itself.
    """

    def __init__(self) -> None:
        self._waiting: dict[_WaitingClient, None] = {}
        """In the order of arrival."""
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, request: Request, work: Callable[[], Awaitable[ASGIApp]]) -> ASGIApp:
        """Return the response of `work`; on a disconnect cancel it and raise `ClientDisconnect`."""
        client = _WaitingClient(request.receive)
        self._waiting[client] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._watch)
        try:
            response = await work()
        except asyncio.CancelledError:
            if not client.has_disconnected:
                raise
            client.task.uncancel()
            raise ClientDisconnect from None
        finally:
            del self._waiting[client]
            if client.watcher is not None:
                client.watcher.cancel()
        return client.replay(response)

    def _watch(self) -> None:
        """Watch the clients that have been waiting for `WATCH_AFTER`, and check again later."""
        self._timer = None
        before = time.monotonic() - WATCH_AFTER
        for client in self._waiting:
            if client.since > before:
                break
            if client.watcher is None:
                client.watcher = asyncio.create_task(client.watch())
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._watch)


class _WaitingClient:
    """A client that waits for the start of its response, in the current task."""

    __slots__ = ("_receive", "_unread", "has_disconnected", "since", "task", "watcher")

    def __init__(self, receive: Receive) -> None:
        self.since = time.monotonic()
        self.task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment]
        self.has_disconnected = False
        self.watcher: asyncio.Task[None] | None = None
        self._receive = receive
        self._unread: Message | None = None
        """The part of the request body that has been received."""

    async def watch(self) -> None:
        """Cancel the task on a disconnect, unless more than `MAX_UNREAD` of the body is before."""
        body = b""
        while len(body) <= MAX_UNREAD:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.has_disconnected = True
                self.task.cancel()
                return
            body += message.get("body", b"")
            self._unread = {**message, "body": body}

    def replay(self, response: ASGIApp) -> ASGIApp:
        """Return the response, which receives the message that has been received already."""
        unread = self._unread
        if unread is None:
            return response

        async def replaying(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_again() -> Message:
                nonlocal unread
                if unread is None:
                    return await receive()
                message, unread = unread, None
                return message

            await response(scope, receive_again, send)

        return replaying


class DisconnectWatcher:
    """ASGI middleware that cancels `app` if the client disconnects from a streamed response.

    Starlette's `StreamingResponse` listens for a disconnect too, but discards the messages of
    `receive`: a stream that is made from the request body would wait for ever. It does not listen
    if the server implements ASGI 2.4, so the scope says so, and `receive` is watched here, with one
    message read ahead. While the application leaves more than that unread, a disconnect is not
    noticed.
    """

    def __init__(self, app: ASGIApp, *, immediately: bool = False) -> None:
        """`immediately` watches from the start of the request: for an
        application that reads every request body to its end, or never reads one."""
        self.app = app
        self.immediately = immediately

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["asgi"] = {**scope.get("asgi", {}), "spec_version": "2.4"}
        messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        watcher: asyncio.Task[None] | None = None

        async def watch() -> None:
            await wait_for_disconnect(receive, messages.put)
            cancel_scope.cancel()

        async def receive_body() -> Message:
            return await (messages.get() if watcher else receive())

        async def send_watched(message: Message) -> None:
            nonlocal watcher
            await send(message)
            if message["type"] != "http.response.body":
                return
            if not message.get("more_body"):
                if watcher:
                    watcher.cancel()  # background tasks go on without the client
            elif watcher is None:
                watcher = asyncio.create_task(watch())

        with CancelScope() as cancel_scope:
            if self.immediately:
                watcher = asyncio.create_task(watch())
            try:
                await self.app(scope, receive_body, send_watched)
            finally:
                if watcher:
                    watcher.cancel()
                    with suppress(asyncio.CancelledError):
                        await watcher
