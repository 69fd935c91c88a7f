"""Django under ASGI as under WSGI: all of a request in one thread, which the views of Pulp expect.

Django's own ASGI handler takes the whole body before it resolves the URL, gives each request a new
thread, and goes to it and back for each blocking part. Pulp's middlewares and views all block: they
were written for `pulpcore-api`, which is WSGI. Here they run one after the other in a thread of a
pool, the way Django's `WSGIHandler` runs them, and read the body while it arrives.
"""

import asyncio
import contextvars
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import django
from asgiref.sync import ThreadSensitiveContext
from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.db import close_old_connections
from django.http import FileResponse, HttpResponse, HttpResponseBadRequest, HttpResponseServerError
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.django_app.isolation import enter_view_thread
from pulpcore.content_star.django_app.request_body import (
    STALL_TIMEOUT,
    BodyError,
    ReadBody,
    RequestBody,
    request_body,
)
from pulpcore.content_star.responses.body import until_disconnect
from pulpcore.content_star.responses.framing import Framing

log = logging.getLogger(__name__)

T = TypeVar("T")

STEP = 64 * 1024
"""Bytes of a response that are sent at a time."""

_HeaderList = list[tuple[bytes, bytes]]

# RFC 9110 5.5; uvicorn fails on them, after the response has begun. Django itself refuses newlines.
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# RFC 9110 7.6.1: about the connection, which is the server's. WSGI forbids them (PEP 3333).
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class ViewThreads:
    """At most so many threads in which Django handles requests; other requests wait for one.

    Each has its own database connection, as Django has it, and an event loop.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, name)

    async def run(
        self, context: contextvars.Context, work: Callable[..., T], *arguments: object
    ) -> T:
        """Call `work` in one of the threads, with the context variables of its request."""
        return await asyncio.wrap_future(self.submit(context, work, *arguments))

    def submit(
        self, context: contextvars.Context, work: Callable[..., T], *arguments: object
    ) -> Future[T]:
        """Have `work` called as `run` does, without waiting for it."""
        return self._executor.submit(context.run, _in_view_thread, work, *arguments)


class UploadThreads(ViewThreads):
    """Threads of requests of which clients decide how long they take.

    No client address has more than half of them, so that one client cannot take all.
    """

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self._share = max(threads // 2, 1)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def share_of(self, scope: Scope) -> asyncio.Semaphore:
        """Return the share of the client of a request; it is forgotten when unused."""
        content_path = scope["client"][0] if scope.get("client") else ""
        share = self._shares.get(content_path)
        if share is None:
            share = self._shares[content_path] = asyncio.Semaphore(self._share)
        return share


_thread = threading.local()


def _in_view_thread(work: Callable[..., T], *arguments: object) -> T:
    """Call `work` in the working directory, with the event loop of this thread, not running.

    Pulp's downloaders fetch with it (`fetch()`, which pulp_python's index calls): under
    `pulpcore-api` views run in the main thread, for which asyncio makes a loop when asked for one.
    """
    enter_view_thread()
    loop: asyncio.AbstractEventLoop | None = getattr(_thread, "loop", None)
    if loop is None or loop.is_closed():
        loop = _thread.loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # `asyncio.run` in an earlier view has taken it away
    return work(*arguments)


class Request(ASGIRequest):
    """A request whose body can be read where WSGI has it."""

    def __init__(self, scope: Scope, body: RequestBody) -> None:
        """pulp_container (blobs) and pulp_maven (deploying) read `wsgi.input` (PEP 3333)."""
        file = body.open()
        super().__init__(scope, file)
        # Django reads from the same file, as it does from the same stream under WSGI.
        self.META["wsgi.input"] = file
        self.received = body


@dataclass(frozen=True)
class _Answer:
    """The response of a view, ready to be sent."""

    status: int
    headers: _HeaderList
    content: bytes
    stream: HttpResponseBase | None = None
    """The response, still to be iterated and closed, where its content is made while it is sent."""


class Api(BaseHandler):
    """ASGI application of the REST API, and whatever else plugins have given URLs in Django."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()
        self._max_body_size: int | None = settings.CONTENT_STAR_MAX_BODY_SIZE
        self._threads = ViewThreads(settings.CONTENT_STAR_API_THREADS, "api")
        # Clients decide how long these are busy: with large bodies, and with what is streamed.
        self._upload_threads = UploadThreads(settings.CONTENT_STAR_UPLOAD_THREADS, "api-upload")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"Django answers HTTP, and no {scope['type']}.")
        body = await request_body(scope, receive, self._max_body_size)
        try:
            await self._respond(scope, body, receive, send)
        finally:
            body.abort()

    async def _respond(self, scope: Scope, body: RequestBody, receive: Receive, send: Send) -> None:
        """Run Django for a request, and send its response."""
        context = contextvars.copy_context()
        if body.error:
            answer = _without_body(body.error)
        elif isinstance(body, ReadBody):
            answer = await self._threads.run(context, self._answer, scope, body)
        else:
            async with self._upload_threads.share_of(scope):
                answer = await self._upload_threads.run(context, self._answer, scope, body)
        if not body.is_complete:
            send = _closing(body, send)
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        if answer.stream is None:
            await send({"type": "http.response.body", "body": answer.content, "more_body": False})
            return
        body.abort()  # what is left of it is received, and dropped, to see the client leave
        sending = partial(self._send_stream, answer.stream, scope, context, send)
        await until_disconnect(receive, sending)

    def _answer(self, scope: Scope, body: RequestBody) -> _Answer:
        """Run Django for a request, in a thread, as its `WSGIHandler` does."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        try:
            request = Request(scope, body)
        except UnicodeDecodeError:  # the query string
            log.warning("%s %r: the query is not UTF-8.", scope["method"], scope["path"])
            return _ready(HttpResponseBadRequest())
        response = self.get_response(request)
        response._handler_class = self.__class__
        if body.error:
            # Django would leave the files until garbage collection.
            for handler in request.upload_handlers:
                handler.upload_interrupted()
        if request.resolver_match:
            scope["endpoint"] = request.resolver_match.func  # where Starlette has it
        return _ready(response)

    def _get_response(self, request: Request) -> HttpResponseBase:
        """Answer with the reason why the body cannot be read, where a view failed for that."""
        try:
            response: HttpResponseBase = super()._get_response(request)
        except Exception:
            error = request.received.error
            if error is None:
                raise
            log.info("%s %r: %s", request.method, request.path, error.reason)
            return HttpResponse(error.reason, "text/plain", error.status)
        return response

    async def _send_stream(
        self, response: HttpResponseBase, scope: Scope, context: contextvars.Context, send: Send
    ) -> None:
        """Send the content of a response while it is made, and close the response in any case."""
        if response.is_async:
            # Its blocking calls get a thread of their own: asgiref has one for all others.
            async with (
                self._closed(response, context),
                ThreadSensitiveContext(),
                aclosing(aiter(response)) as parts,
            ):
                async for part in parts:
                    await _send_part(send, part)
        elif isinstance(response, FileResponse):
            # Files are read by any thread: none waits for a client.
            async with self._closed(response, context):
                response.block_size = STEP
                parts = iter(response)
                while part := await self._threads.run(context, next, parts, b""):
                    await _send_part(send, part)
        else:
            await self._send_from_thread(response, scope, context, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_from_thread(
        self, response: HttpResponseBase, scope: Scope, context: contextvars.Context, send: Send
    ) -> None:
        """Iterate a response in one thread: it may hold the database connection of its thread."""
        iterate = partial(_iterate, response, asyncio.get_running_loop(), send)
        has_begun = False
        try:
            async with self._upload_threads.share_of(scope):
                has_begun = True
                with _ended() as end:
                    # Not cancelled: it closes the response.
                    await asyncio.shield(self._upload_threads.run(context, iterate, end))
        finally:
            if not has_begun:
                self._threads.submit(context.copy(), response.close)

    @asynccontextmanager
    async def _closed(
        self, response: HttpResponseBase, context: contextvars.Context
    ) -> AsyncIterator[None]:
        """Close a response at the end of a block, in a thread that nobody waits for."""
        try:
            yield
        finally:
            self._threads.submit(context.copy(), response.close)


def _iterate(
    response: HttpResponseBase, loop: asyncio.AbstractEventLoop, send: Send, end: threading.Event
) -> None:
    """Send the parts of a response, and close it, in one thread. Stop at `end`."""
    try:
        for part in response:
            if end.is_set():
                return
            asyncio.run_coroutine_threadsafe(_send_in_time(send, part), loop).result()
    finally:
        response.close()


@contextmanager
def _ended() -> Iterator[threading.Event]:
    """Set an event at the end of a block."""
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


def _ready(response: HttpResponseBase) -> _Answer:
    """Make a response ready to be sent, and end its use of the database in this thread."""
    headers = _headers(response)
    if headers is None:
        response.close()
        return _ready(HttpResponseServerError())
    if response.streaming:
        close_old_connections()
        return _Answer(response.status_code, headers, b"", response)
    answer = _Answer(response.status_code, headers, response.content)
    response.close()
    return answer


def _headers(response: HttpResponseBase) -> _HeaderList | None:
    """Return the headers of a response as ASGI has them; None where one cannot be sent."""
    pairs = [(name, value) for name, value in response.items() if name.lower() not in _HOP_BY_HOP]
    pairs += [
        ("Set-Cookie", cookie.output(header="").strip()) for cookie in response.cookies.values()
    ]
    for name, value in pairs:
        if _UNSENDABLE.search(value):
            log.error("The header %r of a view cannot be sent: it has a control character.", name)
            return None
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in pairs]


def _without_body(error: BodyError) -> _Answer:
    """Return the response to a request whose body is not taken."""
    content = error.reason.encode()
    headers = [(b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(content))]
    return _Answer(error.status, headers, content)


def _closing(body: RequestBody, send: Send) -> Send:
    """Close the connection after a response, since the body before the next request is unread."""

    async def send_closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"Connection", b"close")]
            message = {**message, "headers": headers}
        elif not message.get("more_body"):
            await send({**message, "more_body": True})
            await body.linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return send_closing


def create_api() -> ASGIApp:
    """Set Django up, as its `get_asgi_application` does, and return the application."""
    django.setup(set_prefix=False)
    return Framing(Api())
