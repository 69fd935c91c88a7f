"""Client disconnects: wait for one, and cancel work or an application when it comes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio import CancelScope
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
