"""Error responses for exceptions of every kind."""

import re

import pytest
from django.core.exceptions import (
    DisallowedHost,
    PermissionDenied,
    SuspiciousFileOperation,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions as rest
from starlette.exceptions import HTTPException

from pulpcore.app.models import Distribution
from pulpcore.content_star.database.executor import ConnectionLost
from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.middleware.errors import Errors
from pulpcore.content_star.remote.pull_through.models import RemoteRefused
from pulpcore.content_star.responses.source import ArtifactMissing, StoreUnavailable
from tests.support.asgi import get

SECRET = "password=hunter2"

ACCEPT_PAGE = {"Accept": "text/html,*/*;q=0.8"}


def failing(error: Exception, started: bool = False) -> CorrelationId:
    async def app(scope, receive, send):
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return CorrelationId(Errors(app))


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (HTTPException(418, "teapot"), 418, "teapot"),
        (Http404("no such thing"), 404, "no such thing"),
        (Http404(), 404, "Not found"),
        (Distribution.DoesNotExist(SECRET), 404, "Not found"),
        (PermissionDenied("not you"), 403, "not you"),
        (SuspiciousFileOperation(SECRET), 400, "path of the file"),
        (DisallowedHost(SECRET), 400, "Host header"),
        (TooManyFieldsSent(SECRET), 400, "too many parameters"),
        (SuspiciousOperation(SECRET), 400, "SuspiciousOperation"),
        (rest.NotFound(), 404, "Not found"),
        (rest.PermissionDenied("not you"), 403, "not you"),
        (rest.ValidationError({"field": ["bad"]}), 400, "bad"),
        (OperationalError(SECRET), 503, "not available"),
        (InterfaceError(SECRET), 503, "not available"),
        (ConnectionLost(SECRET), 503, "not available"),
        (DataError(SECRET), 500, "correlation id"),
        (ValueError(SECRET), 500, "correlation id"),
        (ArtifactMissing(SECRET), 404, "missing from the storage"),
        (RemoteRefused(520), 520, "status 520"),
        (RemoteRefused(999), 999, "status 999"),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html,*/*;q=0.8"])
def test_exception_becomes_an_error_response(error, status, says, accept):
    response = get(failing(error), "/", headers={"Accept": accept})
    assert response.status_code == status
    assert says in response.text
    assert SECRET not in response.text
    assert len(response.headers["Correlation-ID"]) == 32
    names = list(map(str.lower, dict(response.headers)))
    assert [name for name in names if len(response.headers.get_list(name)) > 1] == []
    if accept == "application/json":
        assert response.json().keys() == {"detail"}


def test_500_is_logged_under_the_correlation_id_of_the_response(caplog):
    response = get(failing(ValueError("cause")), "/path")
    assert response.headers["Correlation-ID"] in response.text
    (record,) = caplog.records
    assert record.exc_info[1].args == ("cause",)
    assert "/path" in record.getMessage()


def test_www_authenticate_and_retry_after_are_sent():
    unauthorized = rest.NotAuthenticated()
    unauthorized.auth_header = 'Basic realm="api"'
    response = get(failing(unauthorized), "/")
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (
        401,
        'Basic realm="api"',
    )
    assert get(failing(rest.Throttled(wait=7)), "/").headers["Retry-After"] == "7"
    assert get(failing(OperationalError()), "/").headers["Retry-After"] == "5"


@pytest.mark.parametrize("error", [RemoteRefused(503), HTTPException(503), StoreUnavailable("s")])
def test_each_503_has_retry_after(error):
    assert get(failing(error), "/").headers["Retry-After"] == "5"


def test_503_keeps_its_own_retry_after():
    error = HTTPException(503, headers={"retry-after": "60"})
    assert get(failing(error), "/").headers.get_list("Retry-After") == ["60"]


def test_error_page_of_the_deepest_path_is_small():
    """It has breadcrumbs, each with a whole path: a short request must not cost 16 MB."""
    response = get(failing(HTTPException(503)), "/pulp/content/" + "a/" * 4000, ACCEPT_PAGE)
    assert response.headers["Content-Type"].startswith("text/html")
    assert len(response.content) < 250_000
    crumbs = re.findall(r'<li><a href="([^"]*)"', response.text)
    assert crumbs[0] == "/pulp/content/"
    assert crumbs[-1] == "/pulp/content/" + "a/" * 3999


def test_exception_after_the_start_is_raised_again():
    with pytest.raises(ValueError, match="late"):
        get(failing(ValueError("late"), started=True), "/")


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("application/json, text/plain;q=0.5", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/*;q=0.2, text/*;q=0.1", True),
        ("application/json;q=0.1, text/plain", False),
        ("application/json;q=nonsense", True),
        ("", False),
        (";;,,=", False),
        ("application/json; a*=no-such-encoding'x'%ff", False),
        ("application/json; a*=no-such-syntax'%ff", False),
    ],
)
def test_error_is_json_if_the_client_prefers_it(accept, is_json):
    response = get(failing(Http404()), "/", headers={"Accept": accept})
    assert (response.headers["Content-Type"] == "application/json") is is_json
    assert response.headers["Vary"] == "Accept"


def test_correlation_id_that_is_no_uuid_is_replaced():
    app = failing(Http404())
    given = "0123456789abcdef0123456789abcdef"
    assert get(app, "/", headers={"Correlation-ID": given}).headers["Correlation-ID"] == given
    for forged in ("x", "] pulp [forged]", "0" * 31, "g" * 32):
        answered = get(app, "/", headers={"Correlation-ID": forged}).headers["Correlation-ID"]
        assert answered != forged
        assert int(answered, 16)
