"""Django's own ASGI handler, with what Pulp's plugins expect of a request beyond Django's promise.

They were written for `pulpcore-api`, which is WSGI.
"""

import asyncio
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import django
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from starlette.types import Scope


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

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a view; Django calls this for each request, and runs the result in a thread."""
        view = super().make_view_atomic(view)
        return view if iscoroutinefunction(view) else with_event_loop(view)


def with_event_loop(view: Callable[..., Any]) -> Callable[..., Any]:
    """Give a view an event loop of its own to fetch with, as Pulp's downloaders do (`fetch()`).

    Under `pulpcore-api` views run in the main thread, for which asyncio makes one when it is asked
    for; pulp_python's index fetches from remotes so.
    """

    @wraps(view)
    def run(*args: Any, **kwargs: Any) -> Any:
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
