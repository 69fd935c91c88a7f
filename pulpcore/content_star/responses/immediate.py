"""Responses that are in memory, which a server can send without a task for the request."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.types import Scope

RawHeaders = list[tuple[bytes, bytes]]

HEAD_CACHE = "content_star.head_cache"
"""Key of a scope whose request head is cached: a dict in which the application caches what depends
on the head alone. Not in the scope of a call."""


@dataclass(slots=True)
class ResponseHead:
    """Status and headers of a response, the same for all requests."""

    status: int
    headers: RawHeaders
    serialized: bytes = b""
    """The headers as the server sends them; filled in by the server."""


class ImmediateResponse(NamedTuple):
    """A complete response."""

    head: ResponseHead
    request_headers: RawHeaders
    """Further headers, of the response to this request alone."""

    body: bytes


def immediate_response(app: Any, scope: Scope) -> ImmediateResponse | None:
    """Return the response that a call of an ASGI application would send, if it is in memory.

    None if it is not, or if its class has no method of this name: then it has to be called. The
    instance may pass attributes of the application on that it wraps.
    Responses are recorded as those of calls are. `scope` is of an HTTP request without a body.
    """
    respond = getattr(type(app), "immediate_response", None)
    response: ImmediateResponse | None = respond(app, scope) if respond else None
    return response
