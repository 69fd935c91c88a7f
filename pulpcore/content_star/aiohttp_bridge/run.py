"""Call of an aiohttp handler for an ASGI request."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, web
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.aiohttp_bridge.connection import Connection
from pulpcore.content_star.aiohttp_bridge.request import MAX_BODY, make_request
from pulpcore.content_star.distributions.routes import executor_of
from pulpcore.content_star.remote.errors import RemoteUnavailable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ConnectionClosed(Exception):
    """A handler has closed the connection before the end of its response."""


async def run(
    scope: Scope, receive: Receive, send: Send, handler: Handler, max_body: int = MAX_BODY
) -> None:
    """Send the response that `handler` returns or raises; cancel it on a client disconnect.

    Raises `ConnectionClosed`, and the exceptions of `handler`.
    """
    connection = Connection(scope, receive, send)
    task = asyncio.create_task(_handle(connection, handler, max_body))
    watch = asyncio.create_task(connection.watch(task.cancel))
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    _conclude(connection, task)


async def _handle(connection: Connection, handler: Handler, max_body: int) -> None:
    request = make_request(connection, max_body)
    with executor_of(Request(connection.scope)).asynchronous_orm():
        try:
            response = await _response(request, handler)
            await response.prepare(request)
            await response.write_eof()
        finally:
            request._finish()  # closes the files of an upload


async def _response(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as raised:
        return raised
    except TimeoutError:
        raise HTTPException(504, "The plugin timed out.") from None
    except ClientError as error:
        # The text of the error may have a URL with credentials.
        kind = f"{type(error).__module__}.{type(error).__name__}"
        raise RemoteUnavailable(f"A request of a plugin to a remote failed: {kind}") from None
    if not isinstance(response, web.StreamResponse):
        raise TypeError(f"A handler must return a response, not {type(response).__name__}.")
    return response


def _conclude(connection: Connection, task: "asyncio.Task[None]") -> None:
    """Raise the exception of the handler, except one caused by a client disconnect."""
    error = None if task.cancelled() else task.exception()
    if connection.lost and (error is None or isinstance(error, ConnectionError)):
        if connection.closed:
            raise ConnectionClosed(
                "A plugin has closed the connection before the end of its response."
            )
        return
    task.result()
