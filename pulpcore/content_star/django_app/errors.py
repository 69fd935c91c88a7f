"""Responses to exceptions of views for which Django would send 500, with a traceback in the log."""

import errno
import logging

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse

from pulpcore.content_star.database.connection import ends_session
from pulpcore.content_star.django_app.password_hashing import TooManyPasswords
from pulpcore.content_star.django_app.request_body import BodyError
from pulpcore.content_star.responses.headers import RETRY_AFTER

log = logging.getLogger(__name__)

# Errors of a full disk, and of a quota.
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def view_error_response(
    request: HttpRequest, failure: Exception, body_error: BodyError | None
) -> HttpResponse | None:
    """Return the response to a request whose view failed, None if Django has to make it.

    With `body_error`, the view failed because its request body could not be read.
    """
    if isinstance(failure, TooManyPasswords):  # outside of REST framework's views
        return _plain(failure.status_code, failure.detail, retry_after=failure.wait)
    if body_error is not None:
        log.info("%s %r: %s", request.method, request.path, body_error.reason)
        return _plain(body_error.status, body_error.reason)
    if isinstance(failure, OperationalError | InterfaceError) and ends_session(failure):
        # No traceback: an outage would have one for each request.
        log.error("%s %r: %s", request.method, request.path, str(failure).strip())
        return _plain(503, "The database is not available.", retry_after=RETRY_AFTER)
    if isinstance(failure, OSError) and failure.errno in _NO_SPACE:  # RFC 4918 section 11.5
        log.error(
            "%s %r: %s. Free space in WORKING_DIRECTORY, FILE_UPLOAD_TEMP_DIR and MEDIA_ROOT.",
            request.method,
            request.path,
            failure,
        )
        return _plain(507, "No space is left on a disk of the server.")
    return None


def _plain(status: int, reason: str, retry_after: int | None = None) -> HttpResponse:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return HttpResponse(reason, "text/plain", status, headers=headers)
