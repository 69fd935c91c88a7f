"""Who sends a request: the API's authentication classes, for a request of content.

Everything here blocks and runs behind the database door.
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
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.request import Request
from rest_framework.views import APIView
from starlette.types import Scope

from pulpcore.content_star.auth.basic_auth_cache import with_cache
from pulpcore.content_star.responses.headers import too_long

log = logging.getLogger(__name__)

# What authentication classes, jq and the database raise about credentials that make no sense:
# claims of the wrong shape or too deep, bytes that are no text, NUL in a name.
NONSENSE = (DataError, RecursionError, StopIteration, ValueError)

# Headers with credentials that guards look at, beside those of authentication classes.
CREDENTIALS = {"HTTP_AUTHORIZATION", "HTTP_X_CLIENT_CERT"}


class View(APIView):
    """What authenticates: the API's configured classes, which remember passwords for a while."""

    authentication_classes = tuple(map(with_cache, APIView.authentication_classes))


class Session(dict[str, Any]):
    """What a browser's session holds, read only.

    Django would write to it where it has expired or was signed with an old `SECRET_KEY`. A new key
    of the session would have to go into a cookie, and content sets none: the API does it.
    """

    def flush(self) -> None:
        self.clear()

    def cycle_key(self) -> None:
        pass


def authenticate(scope: Scope, *, strict: bool = False) -> Request:
    """Return the REST framework's request for `scope`, after its authentication.

    As upstream, who fails to authenticate is anonymous: the guard decides what that means. Where
    that is for nobody to decide, `strict` raises `APIException` as the API would.
    """
    # Nothing that authenticates asks for these two, and Django would take its time to parse them.
    dropped = too_long(scope["headers"])
    headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    request = ASGIRequest({**scope, "headers": headers}, BytesIO())
    # The body belongs to whoever answers: a token against CSRF is looked for in the header alone.
    request.POST = QueryDict()
    # As Django's middleware would, and as lazily: the API honours a browser's session because
    # `SessionAuthentication` finds this user.
    request.user = SimpleLazyObject(partial(_user_of_session, request))
    drf_request = View().initialize_request(request)
    try:
        View().perform_authentication(drf_request)
    except APIException as error:
        log.warning("Authentication failed for %r: %s", request.path, error)
        if strict:
            raise _as_the_api(error, drf_request) from error
    except NONSENSE as error:
        # Its text may quote what was sent.
        log.warning("Authentication failed for %r: %s", request.path, type(error).__name__)
        if strict:
            raise _as_the_api(AuthenticationFailed(), drf_request) from None
        return View(authentication_classes=()).initialize_request(request)
    return drf_request


def challenge(request: Request) -> str | None:
    """Return the `WWW-Authenticate` that asks the sender for credentials (RFC 9110 section 11.6.1).

    None if they should not be asked for: the user is known, credentials were sent and refused, or
    the first authentication class knows no way to ask, which is REST framework's rule. A cookie
    whose session has ended is no refused credential, since browsers send it unasked.
    """
    if getattr(request.user, "is_authenticated", False):
        return None
    headers = CREDENTIALS | {getattr(each, "header", "") for each in View.authentication_classes}
    if any(request.META.get(header) for header in headers):
        return None
    return View().get_authenticate_header(request)


def _as_the_api(error: APIException, request: Request) -> APIException:
    """Complete what REST framework's views would: how to authenticate, or 403 if nobody knows."""
    if error.status_code == 401:
        error.auth_header = View().get_authenticate_header(request)
        if error.auth_header is None:
            error.status_code = 403
    return error


def _user_of_session(request: ASGIRequest) -> Any:
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return AnonymousUser()
    stored = import_module(settings.SESSION_ENGINE).SessionStore(key)
    request.session = Session(stored.items())
    return get_user(request)
