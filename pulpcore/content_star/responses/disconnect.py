"""Middleware that cancels an application on a client disconnect."""

import asyncio
from contextlib import suppress

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send


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
            while (message := await receive())["type"] != "http.disconnect":
                await messages.put(message)
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
