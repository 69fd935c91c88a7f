"""Which form of a resource a client prefers, and what caches are told about it."""

from functools import lru_cache

from django.http import HttpRequest
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON_TYPE = "application/json"

# Bytes, and media types and parameters, of an `Accept` that is read. Browsers and package managers
# send up to 350 bytes and a dozen; the time grows with their square, and what is read is kept.
MAX_BYTES = 1024
MAX_PARTS = 32

_KEY = "content_star.prefers_json"


def prefers_json(request: Request | Scope) -> bool:
    """Tell whether the request's `Accept` ranks JSON above text (RFC 9110 section 12.5.1).

    A header of over `MAX_BYTES` or `MAX_PARTS` is no preference. Decided once a request.
    """
    scope = request.scope if isinstance(request, Request) else request
    preferred: bool | None = scope.get(_KEY)
    if preferred is None:
        preferred = scope[_KEY] = is_json_preferred(scope)
    return preferred


def is_json_preferred(scope: Scope) -> bool:
    """As `prefers_json`, and leave the scope as it is."""
    for name, value in scope["headers"]:
        if name == b"accept":
            return len(value) <= MAX_BYTES and _prefers_json(value)
    return False


@lru_cache(256)  # there are few, and to parse one takes longer than to send a file
def _prefers_json(accept: bytes) -> bool:
    if accept.count(b",") + accept.count(b";") >= MAX_PARTS:
        return False
    negotiation = HttpRequest()
    negotiation.META["HTTP_ACCEPT"] = accept.decode("latin-1")
    try:
        preferred = negotiation.get_preferred_type(["text/html", "text/plain", JSON_TYPE])
    except (ValueError, LookupError):  # a parameter in an encoding that does not exist
        return False
    return bool(preferred == JSON_TYPE)


class Varying:
    """A response that would have been another one for another `Accept`.

    It says so with `Vary: Accept`, beside what else it varies by, in every status: a cache that was
    told with a 200 has to be told with a 304 too (RFC 9110 section 15.4.5).
    """

    def __init__(self, response: ASGIApp) -> None:
        self.response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_varying(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                named = {name.strip().lower() for name in headers.get("Vary", "").split(",")}
                if named.isdisjoint(("accept", "*")):
                    headers.add_vary_header("Accept")
                message = {**message, "headers": headers.raw}
            await send(message)

        await self.response(scope, receive, send_varying)
