"""Content negotiation of listings by `Accept`, and `Vary` for it."""

from functools import lru_cache
from typing import Literal

from django.conf import settings
from django.http import HttpRequest
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON_TYPE = "application/json"

# Limits of an `Accept` that is parsed: bytes, and media types and parameters. Browsers and package
# managers send up to 350 bytes and a dozen; parsing takes quadratic time, and results are cached.
MAX_BYTES = 1024
MAX_PARTS = 32

_KEY = "content_star.prefers_json"


def prefers_json(request: Request | Scope) -> bool:
    """Return whether the request's `Accept` prefers JSON to text (RFC 9110 section 12.5.1).

    False for a header of over `MAX_BYTES` or `MAX_PARTS`. The result is cached in the scope.
    """
    scope = request.scope if isinstance(request, Request) else request
    preferred: bool | None = scope.get(_KEY)
    if preferred is None:
        accept = _accept(scope)
        preferred = bool(accept) and len(accept) <= MAX_BYTES and _prefers_json(accept)
        scope[_KEY] = preferred
    return preferred


def _accept(scope: Scope) -> bytes:
    """Return `Accept`, whose lines are one list (RFC 9110 section 5.3); empty without one."""
    return b",".join([value for name, value in scope["headers"] if name == b"accept"])


@lru_cache(256)  # few distinct values; parsing takes longer than sending a file
def _prefers_json(accept: bytes) -> bool:
    if accept.count(b",") + accept.count(b";") >= MAX_PARTS:
        return False
    negotiation = HttpRequest()
    negotiation.META["HTTP_ACCEPT"] = accept.decode("latin-1")
    try:
        preferred = negotiation.get_preferred_type(["text/html", "text/plain", JSON_TYPE])
    except (ValueError, LookupError):  # a parameter in an unknown encoding
        return False
    return bool(preferred == JSON_TYPE)


Form = Literal["page", "list", "text", "json"]
"""Forms of a directory or index: a page for people, the plain list of links, names, JSON."""


def preferred_form(request: Request) -> Form:
    """Return the form of a directory that the request asks for.

    Browsers name `text/html`, and rank nothing above it: they get the page. Package managers,
    mirrors and scripts accept anything, or rank it below their own types, and get the list of all
    links, as from any web server's index; so does a query with `list`.
    """
    if prefers_json(request):
        return "json"
    accept = _accept(request.scope)
    form = _html_form(accept) if len(accept) <= MAX_BYTES else "list"
    is_list = settings.CONTENT_STAR_INDEX == "classic" or "list" in request.query_params
    return "list" if form == "page" and is_list else form


@lru_cache(256)
def _html_form(accept: bytes) -> Form:
    if accept.count(b",") + accept.count(b";") >= MAX_PARTS:
        return "list"
    negotiation = HttpRequest()
    negotiation.META["HTTP_ACCEPT"] = accept.decode("latin-1")
    try:
        preferred = negotiation.get_preferred_type(["text/html", "text/plain"])
        types = {str(each).partition(";")[0]: each.quality for each in negotiation.accepted_types}
    except (ValueError, LookupError):
        return "list"
    if preferred == "text/plain" and "text/plain" in types:
        return "text"
    is_page = "text/html" in types and types["text/html"] >= max(types.values())
    return "page" if is_page else "list"


class VaryOnAccept:
    """ASGI application that adds `Accept` to the `Vary` of a response, in every status.

    A 304 has to have the same `Vary` as the 200 (RFC 9110 section 15.4.5).
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
