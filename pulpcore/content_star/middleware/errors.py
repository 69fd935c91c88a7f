"""Error handler: converts exceptions to HTTP error responses.

The body is text, or JSON if the client prefers it, as in the REST API: `{"detail": ...}`. It is not
compressed: it is short, and repeats the path (see `responses/text.py`).
"""

import json
import logging
from http.client import responses as reasons
from typing import TypedDict
from urllib.parse import quote

from django.core.exceptions import (
    DisallowedHost,
    ObjectDoesNotExist,
    PermissionDenied,
    SuspiciousFileOperation,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django_guid import get_guid
from rest_framework.exceptions import APIException
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.database.availability import (
    DatabaseOverloaded,
    DatabaseUnavailable,
)
from pulpcore.content_star.distributions.plugin_hooks import responder_of
from pulpcore.content_star.listings.negotiation import preferred_form, prefers_json
from pulpcore.content_star.listings.page import href
from pulpcore.content_star.listings.site import breadcrumbs, page_headers, render_page, start_path
from pulpcore.content_star.remote.errors import RemoteBroke, RemoteTimeout, RemoteUnavailable
from pulpcore.content_star.remote.pull_through.models import RemoteRefused
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.responses.headers import RETRY_AFTER
from pulpcore.content_star.responses.source import ArtifactMissing, StoreUnavailable

log = logging.getLogger(__name__)


class ErrorBody(TypedDict):
    """An error, as in the REST API."""

    detail: str


# Errors that requests have in great numbers, and whose begin and end are logged.
LOGGED_ELSEWHERE = (DatabaseOverloaded, DatabaseUnavailable)


class Errors:
    """ASGI middleware that sends an error response for each exception of the application.

    An exception after the start of the response is raised again: the server closes the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception as error:
            if respond := responder_of(error):  # raised by a plugin's aiohttp code
                if started:
                    raise
                return await respond(error)(scope, receive, send)
            http_error = as_http(error)
            if http_error.status_code == 500:
                log.error("%s %r failed", scope["method"], scope["path"], exc_info=error)
            elif http_error.status_code > 500 and not isinstance(error, LOGGED_ELSEWHERE):
                log.error("%s %r: %s", scope["method"], scope["path"], error)
            if started:
                # The server must close the connection, or the client would take the partial body
                # for a complete one.
                raise
            await render(Request(scope), http_error)(scope, receive, send)


def as_http(error: Exception) -> HTTPException:
    """Return the `HTTPException` with status, detail and headers for any exception."""
    match error:
        case HTTPException():
            return error
        case Http404():
            return HTTPException(404, str(error) or "Not found.")
        case ObjectDoesNotExist():
            # A distribution, guard or publication was deleted between two queries.
            return HTTPException(404, "Not found.")
        case ArtifactMissing():
            log.error("%s", error)
            return HTTPException(404, "The file is missing from the storage.")
        case StoreUnavailable():
            return HTTPException(503, "The storage is not available.")
        case RemoteRefused():
            return HTTPException(error.status, str(error))
        case RemoteTimeout():
            return HTTPException(504, "The remote timed out while sending the file.")
        case RemoteUnavailable() | RemoteBroke():
            return HTTPException(502, "The file could not be fetched from any remote.")
        case ClientDisconnect():
            return HTTPException(400, "The client disconnected before the end of the request body.")
        case PermissionDenied():
            return HTTPException(403, str(error) or "Permission denied.")
        # Not the text of these errors, which may quote the request or a path of the server.
        case DisallowedHost():
            return HTTPException(400, "The Host header is not allowed.")
        case TooManyFieldsSent():
            return HTTPException(400, "The query has too many parameters.")
        case SuspiciousFileOperation():
            return HTTPException(400, "The path of the file is outside of the storage.")
        case SuspiciousOperation():
            return HTTPException(400, f"The request is not valid ({type(error).__name__}).")
        case APIException():
            return _from_rest_framework(error)
        case OperationalError() | InterfaceError():
            return HTTPException(503, "The database is not available.")
    return HTTPException(
        500, f"Internal server error. The log has details under the correlation id {get_guid()}."
    )


def render(request: Request, error: HTTPException) -> Response:
    """Return the error response as text or JSON, as the request prefers."""
    headers = {**(error.headers or {}), "x-content-type-options": "nosniff", "Vary": "Accept"}
    if error.status_code == 503 and "retry-after" not in map(str.lower, headers):
        headers["Retry-After"] = str(RETRY_AFTER)
    if request_info(request.scope).is_plugin_route:
        headers.setdefault("Cache-Control", "no-store")  # as on all responses of plugin routes
    if prefers_json(request):
        body: ErrorBody = {"detail": error.detail}
        return JSONResponse(body, error.status_code, headers)
    if preferred_form(request) == "page" and request.method in ("GET", "HEAD"):
        return _page(request, error, headers)
    return PlainTextResponse(f"{error.status_code}: {error.detail}", error.status_code, headers)


def _page(request: Request, error: HTTPException, headers: dict[str, str]) -> Response:
    """Return the error as a page for people, with a link to the directory above."""
    # A remote's status may have no name.
    title = f"{error.status_code} {reasons.get(error.status_code, '')}".strip()
    context: dict[str, object] = {"title": title, "detail": error.detail}
    try:
        context |= _above(request, error.status_code)
    except HTTPException:  # a path that cannot be decoded
        context |= {"crumbs": [], "start": "/"}
    html = render_page(request, "error.html", context)
    return HTMLResponse(html, error.status_code, headers | page_headers())


def _above(request: Request, status: int) -> dict[str, object]:
    """Return the breadcrumbs, and the context of the link to the directory above.

    404: the nearest one that there is. 401 and 403: the index, since the directory above may have
    the same guard. 400 for a directory's query: the directory itself. Breadcrumbs below the nearest
    have no link.
    """
    *above, (name, _) = crumbs = breadcrumbs(request)
    nearest = request_info(request.scope).above
    if status == 404 and nearest is not None:
        above = breadcrumbs(request, nearest) if nearest else []
    elif status in (401, 403, 404):
        above = above[:1]
    context: dict[str, object] = {
        "start": quote(start_path(request)),
        "crumbs": [crumb if crumb in above else (crumb[0], "") for crumb in crumbs],
    }
    if status == 400 and request.scope["query_string"] and request.scope["path"].endswith("/"):
        context["above_name"], context["above"] = name, href(request)
    elif above:
        context["above_name"], context["above"] = above[-1]
    return context


def _from_rest_framework(error: APIException) -> HTTPException:
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))
    detail = error.detail if isinstance(error.detail, str) else json.dumps(error.detail)
    return HTTPException(error.status_code, str(detail), headers)
