"""Responses of Django's views in the form that ASGI sends."""

import logging
import re
from dataclasses import dataclass

from django.db import close_old_connections
from django.http import HttpResponseServerError
from django.http.response import HttpResponseBase

log = logging.getLogger(__name__)

_HeaderList = list[tuple[bytes, bytes]]

# Invalid in a field value (RFC 9110 section 5.5). Django refuses newlines only, and uvicorn fails
# on the others after the start of the response.
_INVALID_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# RFC 9110 section 7.6.1: set by the server; PEP 3333 forbids them in WSGI applications.
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


@dataclass(frozen=True)
class ViewResponse:
    """Response of a view, ready to be sent."""

    status: int
    headers: _HeaderList
    content: bytes
    stream: HttpResponseBase | None = None
    """A streaming response, which still has to be iterated and closed."""


def view_response(response: HttpResponseBase) -> ViewResponse:
    """Return a response ready to be sent; release the database connection of this thread."""
    headers = _headers(response)
    if headers is None:
        response.close()
        return view_response(HttpResponseServerError())
    if response.streaming:
        close_old_connections()
        return ViewResponse(response.status_code, headers, b"", response)
    response_data = ViewResponse(response.status_code, headers, response.content)
    response.close()
    return response_data


def _headers(response: HttpResponseBase) -> _HeaderList | None:
    """Return the headers of a response for ASGI, None if one is invalid."""
    pairs = [(name, value) for name, value in response.items() if name.lower() not in _HOP_BY_HOP]
    pairs += [
        ("Set-Cookie", cookie.output(header="").strip()) for cookie in response.cookies.values()
    ]
    for name, value in pairs:
        if _INVALID_CHARACTER.search(value):
            log.error("Responding 500: header %r of the view has a control character.", name)
            return None
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in pairs]


def plain_response(status: int, reason: str) -> ViewResponse:
    """Return the error response to a request that Django does not see."""
    content = reason.encode()
    headers = [(b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(content))]
    return ViewResponse(status, headers, content)
