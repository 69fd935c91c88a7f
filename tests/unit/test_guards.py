"""The request that content guards get, and the responses to their decisions."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pulpcore.content_star.auth.guards import GuardRequest, authorize


def make_request(**changes) -> Request:
    scope = {
        "type": "http",
        "method": "HEAD",
        "scheme": "https",
        "http_version": "1.1",
        "path": "/pulp/content/dom/a b/x",
        "raw_path": b"/pulp/content/dom/a%20b%2Fx",
        "query_string": b"expires=1&sig=a%2Bb&empty=",
        "headers": [(b"host", b"pulp.example:8443"), (b"x-one", b"1"), (b"x-one", b"2")],
        "client": ("192.0.2.7", 1234),
        "server": ("127.0.0.1", 80),
    }
    return Request({**scope, **changes})


def guarded(permit) -> SimpleNamespace:
    guard = SimpleNamespace(name="guard", permit=permit)
    guard.cast = lambda: guard
    return SimpleNamespace(content_guard=guard, pulp_domain=SimpleNamespace(name="dom"))


def test_guard_request_has_the_attributes_of_an_aiohttp_request():
    seen = GuardRequest(make_request(), guarded(None), "a b/x")
    assert seen.method == "HEAD"
    assert seen.remote == "192.0.2.7"
    assert seen.path == "/pulp/content/dom/a b/x"
    assert str(seen.url) == (
        "https://pulp.example:8443/pulp/content/dom/a%20b%2Fx?expires=1&sig=a%2Bb&empty="
    )
    assert dict(seen.query) == {"expires": "1", "sig": "a+b", "empty": ""}
    assert seen.headers["X-One"] == "1"
    assert seen.headers.getall("x-ONE") == ["1", "2"]
    assert seen.headers.get("x-two") is None
    assert seen.match_info == {"path": "a b/x", "pulp_domain": "dom"}
    assert seen.get("nonsense") is None
    with pytest.raises(KeyError):
        seen["nonsense"]


def test_distribution_without_a_guard_is_permitted():
    authorize(make_request(), SimpleNamespace(content_guard=None), "")


def test_guard_that_permits_returns():
    asked = []
    authorize(make_request(), guarded(asked.append), "path")
    assert [type(each) for each in asked] == [GuardRequest]


def test_guard_denial_returns_403_with_its_reason():
    def permit(_):
        raise PermissionError("Not on Sundays.")

    with pytest.raises(HTTPException) as denied:
        authorize(make_request(), guarded(permit), "path")
    assert (denied.value.status_code, denied.value.detail) == (403, "Not on Sundays.")


def test_guard_exception_propagates():
    def permit(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        authorize(make_request(), guarded(permit), "path")


@pytest.mark.parametrize("error", [ValueError, StopIteration, AssertionError])
def test_guard_of_a_plugin_that_raises_value_error_is_no_denial(error):
    from pulpcore.app.models import HeaderContentGuard

    def permit(_):
        raise error

    with pytest.raises(error):
        authorize(make_request(), guarded(permit), "path")
    header = HeaderContentGuard(header_name="x-one", header_value="1", pulp_domain_id=uuid4())
    with pytest.raises(HTTPException) as denied:
        authorize(make_request(headers=[(b"x-one", b"\xe9")]), guarded(header.permit), "path")
    assert denied.value.status_code == 403


@pytest.mark.parametrize("comes_with_pulpcore", [True, False])
def test_guard_of_a_plugin_that_extends_one_of_pulpcore_denies_malformed_headers(
    comes_with_pulpcore,
):
    """Where pulpcore's `permit` fails, but not where its own code does."""
    from pulpcore.app.models import HeaderContentGuard

    guard = HeaderContentGuard(header_name="x-one", header_value="1", pulp_domain_id=uuid4())

    def permit(asked: GuardRequest) -> None:
        if comes_with_pulpcore:
            return guard.permit(asked)
        raise ValueError

    raised = HTTPException if comes_with_pulpcore else ValueError
    with pytest.raises(raised):
        authorize(make_request(headers=[(b"x-one", b"\xe9")]), guarded(permit), "path")


def test_guard_request_headers_are_decoded_as_utf_8():
    seen = GuardRequest(
        make_request(headers=[(b"x", "é".encode()), (b"y", b"\xe9")]), guarded(None), ""
    )
    assert seen.headers["X"] == "é"
    assert seen.headers["Y"].encode("utf-8", "surrogateescape") == b"\xe9"


@pytest.mark.parametrize("host", [b"", b"a_b:80", b"[::1]:80", b"pulp.example"])
def test_guard_request_url_has_the_host(host):
    seen = GuardRequest(make_request(headers=[(b"host", host)]), guarded(None), "")
    assert str(seen.url).startswith(f"https://{host.decode() or 'localhost'}/pulp/content/dom/")


@pytest.mark.parametrize("host", [b"a/b", b"a?b", b"a#b", b"a@b", b"a\\b", b"\xe9", b"a:b", b"["])
def test_guard_request_url_of_an_invalid_host_returns_400(host):
    seen = GuardRequest(make_request(headers=[(b"host", host)]), guarded(None), "")
    assert seen.path == "/pulp/content/dom/a b/x"
    assert seen.query["expires"] == "1"
    with pytest.raises(HTTPException) as refused:
        _ = seen.url
    assert refused.value.status_code == 400


def test_guard_request_authenticates_on_first_access(monkeypatch):
    from rest_framework.views import APIView

    asked = []
    monkeypatch.setattr(APIView, "perform_authentication", lambda self, r: asked.append(r))
    seen = GuardRequest(make_request(), guarded(None), "a")
    assert (seen.headers, seen.url, asked) == (seen.headers, seen.url, [])
    assert seen.get("drf_request") is asked[0]
    assert seen["drf_request"].pulp_domain.name == "dom"
    assert len(asked) == 1
