"""Django's own ASGI handler, with what Pulp's plugins expect of a request beyond Django's promise.

They were written for `pulpcore-api`, which is WSGI.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import wraps
from inspect import iscoroutinefunction
from tempfile import SpooledTemporaryFile
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from starlette.types import Receive, Scope

from pulpcore.content_star.isolation import enter_view_thread
from pulpcore.content_star.responses.disk import in_thread


class Request(ASGIRequest):
    """A request whose body can be read where WSGI has it."""

    def __init__(self, scope: Scope, body_file: Any) -> None:
        """pulp_container (blobs) and pulp_maven (deploying) read `wsgi.input` (PEP 3333)."""
        super().__init__(scope, body_file)
        # Django reads from the same file, as it does from the same stream under WSGI.
        self.META["wsgi.input"] = body_file


class Api(ASGIHandler):
    """The REST API, and whatever else plugins have given URLs in Django."""

    request_class = Request

    async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
        """Take the whole body in, which Django wants before it begins.

        Django's own writes to the system's temporary directory, on the event loop. Layers of images
        have gigabytes: they go where Pulp has room for uploads, and a thread writes them.
        Raises `RequestAborted` if the client leaves before the end, OSError where the disk fails.
        """
        in_memory = max(settings.FILE_UPLOAD_MAX_MEMORY_SIZE, 1)  # bytes; 0 would mean all of it
        file = SpooledTemporaryFile[bytes](in_memory, dir=settings.FILE_UPLOAD_TEMP_DIR)
        size = 0
        try:
            async for data in _body(receive):
                size += len(data)
                if size > in_memory:
                    await in_thread(file.write, data)
                else:
                    file.write(data)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a view; Django calls this for each request, and runs the result in a thread."""
        view = super().make_view_atomic(view)
        return view if iscoroutinefunction(view) else with_event_loop(view)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the parts of a body. Raises `RequestAborted` if it ends before its time."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAborted
        yield message.get("body", b"")
        more = message.get("more_body", False)


def with_event_loop(view: Callable[..., Any]) -> Callable[..., Any]:
    """Give a view an event loop of its own to fetch with, as Pulp's downloaders do (`fetch()`).

    Under `pulpcore-api` views run in the main thread, for which asyncio makes one when it is asked
    for; pulp_python's index fetches from remotes so.
    """

    @wraps(view)
    def run(*args: Any, **kwargs: Any) -> Any:
        enter_view_thread()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return view(*args, **kwargs)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    return run


def create_api() -> Api:
    """Set Django up, as its `get_asgi_application` does, and return the application."""
    django.setup(set_prefix=False)
    return Api()
