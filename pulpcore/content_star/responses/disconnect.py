"""Notices that a client leaves, without taking the body away from who reads it."""

import asyncio
from contextlib import suppress

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DisconnectWatcher:
    """ASGI middleware that cancels `app` when the client leaves while a stream is sent to it.

    Starlette's `StreamingResponse` would do that itself, but by throwing away what `receive` says,
    even if that is the body which the stream is made of: both would wait for ever. It is told that
    the server follows ASGI 2.4, where it does not, and `receive` is looked after here. What is not
    read of a body is noticed to end only if it is a single message.
    """

    def __init__(self, app: ASGIApp, *, at_once: bool = False) -> None:
        """`at_once` watches from the beginning: for an app that reads every body, or none."""
        self.app = app
        self.at_once = at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["asgi"] = {**scope.get("asgi", {}), "spec_version": "2.4"}
        ahead: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        watching: asyncio.Task[None] | None = None

        async def watch() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                await ahead.put(message)
            presence.cancel()

        async def receive_body() -> Message:
            return await (ahead.get() if watching else receive())

        async def send_watched(message: Message) -> None:
            nonlocal watching
            await send(message)
            if message["type"] != "http.response.body":
                return
            if not message.get("more_body"):
                if watching:
                    watching.cancel()  # what runs in the background goes on without the client
            elif watching is None:
                watching = asyncio.create_task(watch())

        with CancelScope() as presence:
            if self.at_once:
                watching = asyncio.create_task(watch())
            try:
                await self.app(scope, receive_body, send_watched)
            finally:
                if watching:
                    watching.cancel()
                    with suppress(asyncio.CancelledError):
                        await watching
