"""Authentication of content requests with the authentication classes of Pulp's REST API.

All functions block: call them in a thread of a `DatabaseExecutor`.
"""

import logging
from functools import partial
from importlib import import_module
from io import BytesIO
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.core.handlers.asgi import ASGIRequest
from django.db import DataError
from django.http import QueryDict
from django.utils.functional import SimpleLazyObject
from rest_framework.exceptions import APIException, AuthenticationFailed, ParseError
from rest_framework.request import Request
from rest_framework.views import APIView
from starlette.types import Scope

from pulpcore.content_star.auth.basic_auth_cache import with_cache
from pulpcore.content_star.responses.headers import too_long

log = logging.getLogger(__name__)

# Raised by authentication classes, jq and the database for malformed credentials: claims of an
# unexpected shape or depth, bytes that are not text, NUL in a user name.
CREDENTIAL_ERRORS = (DataError, RecursionError, StopIteration, ValueError)

# Headers with credentials that guards read, in addition to those of authentication classes.
CREDENTIALS = {"HTTP_AUTHORIZATION", "HTTP_X_CLIENT_CERT"}


class UnreadableContentType(ParseError, ValueError):
    """The Content-Type of a request has an unknown encoding: 400, or a guard's 403."""

    default_detail = "The Content-Type of the request has an unknown encoding."


class View(APIView):
    """View with the configured authentication classes, and a cache of Basic password checks."""

    authentication_classes = tuple(map(with_cache, APIView.authentication_classes))


class Session(dict[str, Any]):
    """The data of a browser's session, which is never written to the session store.

    Django would change a session that has expired or was signed with an old `SECRET_KEY`. A new
    session key needs a cookie, and content responses set none: the API does.
    """

    def flush(self) -> None:
        self.clear()

    def cycle_key(self) -> None:
        pass


def authenticate(scope: Scope, *, strict: bool = False) -> Request:
    """Return an authenticated REST framework request for `scope`.

    As in upstream, a user whose authentication fails is anonymous, and the guard decides.
    With `strict`, for requests without a guard, a failure raises `APIException` as in the API.
    Raises `UnreadableContentType`, which is one too.
    """
    # No authentication class reads over-long headers, and Django parses them slowly.
    dropped = too_long(scope["headers"])
    headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    try:
        request = ASGIRequest({**scope, "headers": headers}, BytesIO())
    except (LookupError, ValueError) as error:  # LookupError in Django 5.2.13
        raise UnreadableContentType from error
    # The body is left for the application: a CSRF token is read from the header only.
    request.POST = QueryDict()
    # Lazy, as in Django's `AuthenticationMiddleware`: `SessionAuthentication` reads this user.
    request.user = SimpleLazyObject(partial(_session_user, request))
    drf_request = View().initialize_request(request)
    try:
        View().perform_authentication(drf_request)
    except APIException as error:
        log.warning("Authentication failed for %r: %s", request.path, error)
        if strict:
            raise _with_challenge(error, drf_request) from error
    except CREDENTIAL_ERRORS as error:
        # The text of the error may quote the credentials.
        log.warning("Authentication failed for %r: %s", request.path, type(error).__name__)
        if strict:
            raise _with_challenge(AuthenticationFailed(), drf_request) from None
        return View(authentication_classes=()).initialize_request(request)
    return drf_request


def challenge(request: Request) -> str | None:
    """Return the value of `WWW-Authenticate` for a 401 response (RFC 9110 section 11.6.1).

    None if the response should be 403: the user is authenticated, credentials were sent and
    rejected, or the first authentication class has no challenge, which is REST framework's rule.
    The cookie of an expired session does not count as credentials, since browsers always send it.
    """
    if getattr(request.user, "is_authenticated", False):
        return None
    headers = CREDENTIALS | {getattr(each, "header", "") for each in View.authentication_classes}
    if any(request.META.get(header) for header in headers):
        return None
    return View().get_authenticate_header(request)


def _with_challenge(error: APIException, request: Request) -> APIException:
    """Set the challenge of a 401, or status 403 without one, as REST framework's views do."""
    if error.status_code == 401:
        error.auth_header = View().get_authenticate_header(request)
        if error.auth_header is None:
            error.status_code = 403
    return error


def _session_user(request: ASGIRequest) -> Any:
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return AnonymousUser()
    stored = import_module(settings.SESSION_ENGINE).SessionStore(key)
    request.session = Session(stored.items())
    return get_user(request)
