"""ASGI handler for Django that runs each request in one thread, as `WSGIHandler` does.

Django's own ASGI handler receives the whole body before it resolves the URL, creates a thread for
each request, and switches to it for each blocking part. Pulp's middlewares and views all block:
they were written for `pulpcore-api`, which is WSGI. Here they run in a thread of a pool, and read
the body while it arrives.
"""

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial

import django
from asgiref.sync import ThreadSensitiveContext
from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse, HttpResponseBadRequest
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.auth.password_checks import Failures, client_network
from pulpcore.content_star.django_app.errors import view_error_response
from pulpcore.content_star.django_app.password_hashing import HashingView, current_view
from pulpcore.content_star.django_app.request_body import (
    STALL_TIMEOUT,
    ReadBody,
    RequestBody,
    request_body,
)
from pulpcore.content_star.django_app.response import ViewResponse, plain_response, view_response
from pulpcore.content_star.django_app.switch_interval import SwitchInterval
from pulpcore.content_star.django_app.threads import NoThread, UploadThreads, ViewThreads
from pulpcore.content_star.responses.disconnect import until_disconnect
from pulpcore.content_star.responses.framing import Framing
from pulpcore.content_star.responses.headers import RETRY_AFTER

log = logging.getLogger(__name__)

CHUNK_SIZE = 64 * 1024
"""Maximum bytes of a body message for files."""


class Request(ASGIRequest):
    """Django request whose body is also available as `wsgi.input`."""

    def __init__(self, scope: Scope, body: RequestBody) -> None:
        """Set `wsgi.input` (PEP 3333), which pulp_container and pulp_maven read for uploads."""
        file = body.open()
        super().__init__(scope, file)
        # Django reads from the same file object, as under WSGI.
        self.META["wsgi.input"] = file
        self.received = body


class DjangoApp(BaseHandler):
    """ASGI application for Django: the REST API and other URLs of plugins."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()
        self._max_body_size: int | None = settings.CONTENT_STAR_MAX_BODY_SIZE
        self._max_waiting: int = settings.CONTENT_STAR_API_WAITING
        self._is_overloaded = False
        nice: int = settings.CONTENT_STAR_API_NICE
        self._threads = ViewThreads(settings.CONTENT_STAR_API_THREADS, "api", nice)
        # For large bodies and streaming responses, whose duration depends on the client.
        uploads: int = settings.CONTENT_STAR_UPLOAD_THREADS
        self._upload_threads = UploadThreads(uploads, "api-upload", nice)
        self._failures = Failures()
        self._switch_interval = SwitchInterval(settings.CONTENT_STAR_SWITCH_INTERVAL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"Django only handles HTTP requests, not {scope['type']}.")
        body = await request_body(scope, receive, self._max_body_size)
        try:
            with self._switch_interval:
                await self._respond(scope, body, receive, send)
        finally:
            body.abort()

    async def _respond(self, scope: Scope, body: RequestBody, receive: Receive, send: Send) -> None:
        """Run Django in a thread, and send the response."""
        context = contextvars.copy_context()
        view = HashingView(client_network(scope))
        context.run(current_view.set, view)
        if body.error:
            response_data = plain_response(body.error.status, body.error.reason)
        elif isinstance(body, ReadBody) and self._is_full(scope):
            response_data = plain_response(503, "Too many requests to the API are waiting.")
            response_data.headers.append((b"Retry-After", b"%d" % RETRY_AFTER))
        elif isinstance(body, ReadBody):
            response_data = await self._threads.run(context, self._run_django, scope, body)
        else:
            async with self._upload_threads.semaphore_for(scope):
                response_data = await self._upload_threads.run(
                    context, self._run_django, scope, body
                )
        if view.has_failed:
            await asyncio.sleep(self._failures.pause(view.client))
        if not body.is_complete:
            send = _then_close(body, send)
        await send(
            {
                "type": "http.response.start",
                "status": response_data.status,
                "headers": response_data.headers,
            }
        )
        if response_data.stream is None:
            await send(
                {"type": "http.response.body", "body": response_data.content, "more_body": False}
            )
            return
        body.abort()  # the rest is received and dropped, to detect a disconnect
        sending = partial(self._send_stream, response_data.stream, scope, context, send)
        await until_disconnect(receive, sending)

    def _is_full(self, scope: Scope) -> bool:
        """Return whether as many requests wait as may. The liveness probe may in any case."""
        if scope["path"].endswith("/livez/"):
            return False
        is_full = self._threads.waiting >= self._max_waiting and self._threads.is_busy
        self._note_overload(is_full)
        return is_full

    def _note_overload(self, is_full: bool) -> None:
        """Log that requests are refused, once until a thread is free again."""
        if is_full and not self._is_overloaded:
            log.warning(
                "API: threads (%d) are all in use, and %d requests wait (CONTENT_STAR_API_WAITING);"
                " further ones get 503. Start more processes, or look for slow requests in the"
                " access log.",
                settings.CONTENT_STAR_API_THREADS,
                self._max_waiting,
            )
        self._is_overloaded = self._threads.is_busy and (is_full or self._is_overloaded)

    def _run_django(self, scope: Scope, body: RequestBody) -> ViewResponse:
        """Run Django for a request, as its `WSGIHandler` does. Blocks."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        try:
            request = Request(scope, body)
        except UnicodeDecodeError:  # the query string
            log.warning("%s %r: the query is not UTF-8.", scope["method"], scope["path"])
            return view_response(HttpResponseBadRequest())
        response = self.get_response(request)
        response._handler_class = self.__class__
        if body.error:
            _remove_uploads(request)
        if request.resolver_match:
            scope["endpoint"] = request.resolver_match.func  # as Starlette sets it
        return view_response(response)

    def _get_response(self, request: Request) -> HttpResponseBase:
        """Run the view; respond to failures of which Django does not know the status."""
        try:
            response: HttpResponseBase = super()._get_response(request)
        except Exception as failure:
            _remove_uploads(request)
            answer = view_error_response(request, failure, request.received.error)
            if answer is None:
                raise
            return answer
        return response

    async def _send_stream(
        self, response: HttpResponseBase, scope: Scope, context: contextvars.Context, send: Send
    ) -> None:
        """Send a streaming response, and close it in any case."""
        if response.is_async:
            # Blocking calls run in a thread of this response, not in the one shared by all.
            async with (
                self._closing_response(response, context),
                ThreadSensitiveContext(),
                aclosing(aiter(response)) as parts,
            ):
                async for part in parts:
                    await _send_part(send, part)
        elif isinstance(response, FileResponse):
            # Each read may use any thread, so that no thread waits for the client.
            async with self._closing_response(response, context):
                response.block_size = CHUNK_SIZE
                parts = iter(response)
                while part := await self._threads.run(context, next, parts, b""):
                    await _send_part(send, part)
        else:
            await self._send_from_thread(response, scope, context, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_from_thread(
        self, response: HttpResponseBase, scope: Scope, context: contextvars.Context, send: Send
    ) -> None:
        """Iterate a response in one thread: it may use the database connection of its thread."""
        iterate = partial(_iterate, response, asyncio.get_running_loop(), send)
        has_started = False
        try:
            async with self._upload_threads.semaphore_for(scope):
                has_started = True
                with _end_event() as end:
                    # Shielded: it closes the response.
                    await asyncio.shield(self._upload_threads.run(context, iterate, end))
        except NoThread:
            has_started = False
            raise
        finally:
            if not has_started:
                self._threads.close(context.copy(), response)

    @asynccontextmanager
    async def _closing_response(
        self, response: HttpResponseBase, context: contextvars.Context
    ) -> AsyncIterator[None]:
        """Close a response at the end of the block, in a thread, without waiting for it."""
        try:
            yield
        finally:
            self._threads.close(context.copy(), response)


def _remove_uploads(request: Request) -> None:
    """Remove the temporary files of an upload, which Django would keep until garbage collection."""
    for handler in request.upload_handlers:
        with suppress(OSError):  # from flushing a file to a full disk, which removes it
            handler.upload_interrupted()


def _iterate(
    response: HttpResponseBase, loop: asyncio.AbstractEventLoop, send: Send, end: threading.Event
) -> None:
    """Send the parts of a response until `end` is set, and close it. Blocks."""
    try:
        for part in response:
            if end.is_set():
                return
            asyncio.run_coroutine_threadsafe(_send_in_time(send, part), loop).result()
    finally:
        response.close()


@contextmanager
def _end_event() -> Iterator[threading.Event]:
    """Yield an event that is set at the end of the block."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


async def _send_in_time(send: Send, part: bytes) -> None:
    async with asyncio.timeout(STALL_TIMEOUT):
        await _send_part(send, part)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


def _then_close(body: RequestBody, send: Send) -> Send:
    """Return a `send` that closes the connection, since part of the request body is unread."""

    async def send_then_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"Connection", b"close")]
            message = {**message, "headers": headers}
        elif not message.get("more_body"):
            await send({**message, "more_body": True})
            await body.linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return send_then_close


def create_api() -> ASGIApp:
    """Set Django up, as `get_asgi_application` does, and return the ASGI application."""
    django.setup(set_prefix=False)
    return Framing(DjangoApp())
