"""Django's own ASGI handler, with what Pulp's plugins expect of a request beyond Django's promise.

They were written for `pulpcore-api`, which is WSGI.
"""

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


def create_api() -> Api:
    """Set Django up, as its `get_asgi_application` does, and return the application."""
    django.setup(set_prefix=False)
    return Api()
