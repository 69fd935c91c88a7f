"""The one place where exceptions become HTTP answers.

Errors are text, or JSON where the client prefers it, in the REST API's form: `{"detail": ...}`.
"""

import json
import logging

from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django_guid import get_guid
from rest_framework.exceptions import APIException
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.distributions.plugin_hooks import responder_of
from pulpcore.content_star.listings.negotiation import prefers_json
from pulpcore.content_star.remote.errors import RemoteBroke, RemoteTimeout, RemoteUnavailable
from pulpcore.content_star.remote.pull_through.models import RemoteRefused
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.responses.source import ArtifactMissing, StoreUnavailable

log = logging.getLogger(__name__)

# Seconds after which a client may try again when the database or a storage is away.
RETRY_AFTER = 5


class Errors:
    """ASGI middleware that answers for every exception of the application inside it."""

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
            if respond := responder_of(error):  # raised by plugins' code for aiohttp
                if started:
                    raise
                return await respond(error)(scope, receive, send)
            answer = as_http(error)
            if answer.status_code == 500:
                log.error("%s %r failed", scope["method"], scope["path"], exc_info=error)
            elif answer.status_code > 500:
                log.error("%s %r: %s", scope["method"], scope["path"], error)
            if started:
                # Too late for another status: the server must cut the connection, or the client
                # would take what it got for the whole.
                raise
            await render(Request(scope), answer)(scope, receive, send)


def as_http(error: Exception) -> HTTPException:
    """Translate any exception into the HTTP status, detail and headers that it means."""
    match error:
        case HTTPException():
            return error
        case Http404():
            return HTTPException(404, str(error) or "Not found.")
        case ObjectDoesNotExist():
            # Deleted between two of the queries: a distribution, its guard, a publication.
            return HTTPException(404, "Not found.")
        case ArtifactMissing():
            log.error("%s", error)
            return HTTPException(404, "The file is missing from the storage.")
        case StoreUnavailable():
            detail = "The storage is not available."
            return HTTPException(503, detail, headers={"Retry-After": str(RETRY_AFTER)})
        case RemoteRefused():
            return HTTPException(error.status, str(error))
        case RemoteTimeout():
            return HTTPException(504, "The remote takes too long.")
        case RemoteUnavailable() | RemoteBroke():
            return HTTPException(502, "No remote could send the file.")
        case ClientDisconnect():
            return HTTPException(400, "The request ended before its body.")  # nobody reads this
        case PermissionDenied():
            return HTTPException(403, str(error) or "Permission denied.")
        case SuspiciousOperation():
            return HTTPException(400, "The request makes no sense.")
        case APIException():
            return _from_rest_framework(error)
        case OperationalError() | InterfaceError():
            detail = "The database is not available."
            return HTTPException(503, detail, headers={"Retry-After": str(RETRY_AFTER)})
    return HTTPException(
        500, f"Something went wrong. The log says more under the correlation id {get_guid()}."
    )


def render(request: Request, error: HTTPException) -> Response:
    """Render `error` in the form that the request prefers."""
    headers = {**(error.headers or {}), "X-Content-Type-Options": "nosniff", "Vary": "Accept"}
    if request_info(request.scope).is_plugin_route:
        headers.setdefault("Cache-Control", "no-store")  # as on all responses of plugin routes
    if prefers_json(request):
        return JSONResponse({"detail": error.detail}, error.status_code, headers)
    return PlainTextResponse(f"{error.status_code}: {error.detail}", error.status_code, headers)


def _from_rest_framework(error: APIException) -> HTTPException:
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))
    detail = error.detail if isinstance(error.detail, str) else json.dumps(error.detail)
    return HTTPException(error.status_code, str(detail), headers)
