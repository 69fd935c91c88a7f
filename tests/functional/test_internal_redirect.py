"""Internal redirects: content that the API redirects to is sent as the first response."""

import asyncio
import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponseRedirect
from django.test import override_settings
from django.urls import clear_url_caches, path
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from pulpcore.content_star.django_app.handler import create_api
from pulpcore.content_star.plugin_host.mounts import mount_app, mounted
from pulpcore.content_star.request_info import Telemetry
from pulpcore.routing import Router
from tests.support.orm import Site
from tests.support.pulp import unique
from tests.support.stores import Store


def redirecting(location: str, status: int = 302, **headers: str) -> ASGIApp:
    """Return an API application that redirects all requests to `location`, as plugins' views do."""

    async def view(request: Request) -> RedirectResponse:
        response = RedirectResponse(location, status, headers)
        response.set_cookie("seen", "yes")
        return response

    return Starlette(routes=[Route("/{path:path}", view, methods=["GET", "POST"])])


@pytest.fixture
def django_redirecting(instance, monkeypatch) -> Iterator[Callable[..., ASGIApp]]:
    """As `redirecting`, by a Django view, whose header names are not in lower case."""

    def redirecting(location: str, **headers: str) -> ASGIApp:
        def view(request: HttpRequest) -> HttpResponseRedirect:
            response = HttpResponseRedirect(location, headers=headers)
            response.set_cookie("seen", "yes")
            return response

        monkeypatch.setattr(f"{settings.ROOT_URLCONF}.urlpatterns", [path("api/x", view)])
        clear_url_caches()
        return create_api()

    yield redirecting
    clear_url_caches()


def send(app, content, *, method="GET", headers=None, in_place=True, path="/api/x?y=1"):
    """Send a request to a router with `app` as its API, and return the response."""
    router = Router(content, app, "/pulp/content/", internal_redirect=in_place)

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(router)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp:8080") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())


@pytest.fixture
def base(orm) -> str:
    publication = orm.publication({"a.txt": b"0123456789", "dir/b c.txt": b"below"})
    return "/pulp/content/" + orm.distribution(publication=publication)


def test_internal_redirect_of_a_django_view_is_served(app, django_redirecting, base):
    api = django_redirecting(f"http://pulp:8080{base}/a.txt", **{"Cache-Control": "no-store"})
    headers = {"Host": "pulp:8080"}
    assert send(api, app, headers=headers, in_place=False).status_code == 302
    for method, body in (("GET", b"0123456789"), ("HEAD", b"")):
        answer = send(api, app, method=method, headers=headers)
        assert (answer.status_code, answer.content) == (200, body)
        assert "Location" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Set-Cookie"].startswith("seen=yes")
        assert len(answer.headers.get_list("Correlation-ID")) == 1


@pytest.mark.parametrize("origin", ["", "http://pulp:8080", "HTTPS://PULP:8080"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_internal_redirect_serves_the_content_instead(app, base, origin, status):
    answer = send(redirecting(f"{origin}{base}/dir/b%20c.txt", status), app)
    assert (answer.status_code, answer.content) == (200, b"below")
    assert "Location" not in answer.headers
    assert answer.headers["Set-Cookie"].startswith("seen=yes"), "headers of both responses"


def test_internal_redirect_applies_range_and_conditions_to_the_content(app, base):
    api = redirecting(f"{base}/a.txt")
    part = send(api, app, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    etag = part.headers["ETag"]
    assert send(api, app, headers={"If-None-Match": etag}).status_code == 304
    head = send(api, app, method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == "10"


def test_internal_redirect_response_is_not_for_shared_caches(app, base):
    assert "public" in send(app, app, path=f"{base}/a.txt").headers["Cache-Control"]
    answer = send(redirecting(f"{base}/a.txt", Vary="Authorization"), app)
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert "Authorization" in answer.headers["Vary"]
    public = {"Cache-Control": "public, max-age=5", "Expires": "Fri, 01 Jan 2100 00:00:00 GMT"}
    answer = send(redirecting(f"{base}/a.txt", **public), app)
    assert answer.headers["Cache-Control"] == "private, no-cache", "the API's public is replaced"
    assert "Expires" not in answer.headers
    answer = send(redirecting(f"{base}/a.txt", **{"Cache-Control": "no-store"}), app)
    assert answer.headers["Cache-Control"] == "no-store"


def test_internal_redirect_asks_the_guard(app, orm):
    from pulpcore.app.models import HeaderContentGuard

    guard = orm.guard(HeaderContentGuard, header_name="X-Key", header_value="open")
    publication = orm.publication({"a.txt": b"secret"})
    base = "/pulp/content/" + orm.distribution(publication=publication, content_guard=guard)
    api = redirecting(f"{base}/a.txt")
    assert send(api, app).status_code == 403
    assert send(api, app, headers={"X-Key": "b3Blbg=="}).content == b"secret"


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.example{base}/a.txt",
        "http://pulp{base}/a.txt",  # another port
        "//elsewhere:8080{base}/a.txt",
        "http://user@pulp:8080{base}/a.txt",
        "ftp://pulp:8080{base}/a.txt",
        "/api/other",
        "{base}/",  # a listing's links are relative to its own URL
        "{base}/dir/",
        "http://[broken{base}/a.txt",
        "http://pulp:8080{base}/../a.txt",  # dot segments, which clients resolve
        "http://pulp:8080{base}/%2e%2E/a.txt",
    ],
)
def test_redirect_to_other_locations_is_left_to_the_client(app, base, location):
    location = location.format(base=base)
    answer = send(redirecting(location), app)
    assert (answer.status_code, answer.headers["Location"]) == (302, location)


def test_redirect_of_post_and_other_statuses_are_left_to_the_client(app, base):
    assert send(redirecting(f"{base}/a.txt"), app, method="POST").status_code == 302
    assert send(redirecting(f"{base}/a.txt", 201), app).status_code == 201
    assert send(redirecting(f"{base}/a.txt"), app, in_place=False).status_code == 302


def test_redirect_of_the_content_is_not_followed(app, base):
    """So that redirects cannot loop."""
    answer = send(redirecting(f"{base}/dir"), app)
    assert answer.status_code == 301
    assert answer.headers["Location"].endswith(f"{base}/dir/")


def test_internal_redirect_response_has_one_correlation_id(app, base):
    """Django's, under which it has logged the request, or else the client's."""
    made, sent = uuid.uuid4().hex, uuid.uuid4().hex
    for given in ({}, {"Correlation-ID": sent}):
        api = redirecting(f"{base}/a.txt", **{"Correlation-ID": made})
        assert send(api, app, headers=given).headers.get_list("Correlation-ID") == [made]
    answer = send(redirecting(f"{base}/a.txt"), app, headers={"Correlation-ID": sent})
    assert answer.headers.get_list("Correlation-ID") == [sent]


def test_internal_redirect_is_recorded_in_telemetry_as_content(app, base):
    class Record:
        def __init__(self) -> None:
            self.seen: list[tuple[object, ...]] = []

        def record(self, scope, info) -> None:
            status, route = info.status, info.route
            self.seen.append((scope["path"], status, info.bytes_sent, route, info.source))

    record = Record()
    telemetry = Telemetry(app, [record])
    send(redirecting(f"{base}/a.txt"), telemetry, headers={"Range": "bytes=2-4"})
    send(redirecting(f"{base}/a.txt"), telemetry, method="HEAD")
    path, route = f"{base}/a.txt", "stream_content"
    assert record.seen == [(path, 206, 3, route, "local"), (path, 200, 0, route, "local")]


@pytest.fixture
def site(instance, store: Store) -> Iterator[Site]:
    """A domain on an object store."""
    with override_settings(DOMAIN_ENABLED=True):
        site = Site(store.storage_class, store.settings, {"a.txt": b"0123456789"})
        store.relay.reset()
        yield site
        site.remove()


CREDENTIALS = {"Authorization": "Basic c29tZWJvZHk6aHVudGVyMg==", "Cookie": "sessionid=hunter2"}


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("redirects", [False, True])
def test_internal_redirect_sends_no_credentials_to_an_object_store(app, store, site, redirects):
    site.set(redirect_to_object_storage=redirects)
    api = redirecting(f"/pulp/content/{site.domain.name}/{site.base_path}/a.txt")
    headers = {**CREDENTIALS, "Range": "bytes=2-4"}
    answer = send(api, app, headers=headers)
    if redirects:
        # A redirect to another origin, to which clients send no credentials.
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(f"{store.relay.url}/")
        assert "hunter2" not in str(answer.headers)
        assert answer.headers["Cache-Control"] == "no-store", "as for all signed URLs"
        assert store.relay.asked == b""
    else:
        assert (answer.status_code, answer.content) == (206, b"234")
        assert b"bytes=2-4" in store.relay.asked
        for secret in (b"c29tZWJvZHk6aHVudGVyMg==", b"hunter2", b"authorization:", b"cookie:"):
            assert secret not in store.relay.asked.lower() + store.relay.asked


def test_internal_redirect_to_a_plugin_prefix_is_served(app):
    prefix = f"/pulp/{unique('blobs')}/"
    blob = redirecting("/pulp/elsewhere")
    mount_app(prefix, blob)

    async def content(scope, receive, send):
        await (mounted(scope) or app)(scope, receive, send)

    answer = send(redirecting(f"{prefix}a?token=1"), content)
    assert answer.headers["Location"] == "/pulp/elsewhere", "one step only"
