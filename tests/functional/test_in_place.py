"""Content that the API's side redirects to, in the answer to the first request."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from pulpcore.content_star.mounts import mount, mounted
from pulpcore.routing import Router
from tests.pulp import unique


def redirecting(location: str, status: int = 302, **headers: str) -> ASGIApp:
    """What a plugin's view does: look at the request, and send the client on."""

    async def view(request: Request) -> RedirectResponse:
        response = RedirectResponse(location, status, headers)
        response.set_cookie("seen", "yes")
        return response

    return Starlette(routes=[Route("/{path:path}", view, methods=["GET", "POST"])])


def ask(app, content, *, method="GET", headers=None, in_place=True, path="/api/x?y=1"):
    """Send a request to a process that has `app` for its API."""
    router = Router(content, app, "/pulp/content/", in_place=in_place)

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(router)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp:8080") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())


@pytest.fixture
def base(orm) -> str:
    publication = orm.publication({"a.txt": b"0123456789", "dir/b c.txt": b"below"})
    return "/pulp/content/" + orm.distribution(publication=publication)


@pytest.mark.parametrize("origin", ["", "http://pulp:8080", "HTTPS://PULP:8080"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_content_is_served_instead_of_the_redirect(app, base, origin, status):
    answer = ask(redirecting(f"{origin}{base}/dir/b%20c.txt", status), app)
    assert (answer.status_code, answer.content) == (200, b"below")
    assert "Location" not in answer.headers
    assert answer.headers["Set-Cookie"].startswith("seen=yes"), "as if it had been followed"


def test_what_the_client_asks_for_is_of_the_content(app, base):
    api = redirecting(f"{base}/a.txt")
    part = ask(api, app, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    etag = part.headers["ETag"]
    assert ask(api, app, headers={"If-None-Match": etag}).status_code == 304
    head = ask(api, app, method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == "10"


def test_no_shared_cache_keeps_what_the_api_decided(app, base):
    assert "public" in ask(app, app, path=f"{base}/a.txt").headers["Cache-Control"]
    answer = ask(redirecting(f"{base}/a.txt", Vary="Authorization"), app)
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert "Authorization" in answer.headers["Vary"]
    answer = ask(redirecting(f"{base}/a.txt", **{"Cache-Control": "max-age=5"}), app)
    assert answer.headers["Cache-Control"] == "max-age=5", "what the API said of its own URL"


def test_guards_are_asked(app, orm):
    from pulpcore.app.models import HeaderContentGuard

    guard = orm.guard(HeaderContentGuard, header_name="X-Key", header_value="open")
    publication = orm.publication({"a.txt": b"secret"})
    base = "/pulp/content/" + orm.distribution(publication=publication, content_guard=guard)
    api = redirecting(f"{base}/a.txt")
    assert ask(api, app).status_code == 403
    assert ask(api, app, headers={"X-Key": "b3Blbg=="}).content == b"secret"


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.example{base}/a.txt",
        "http://pulp{base}/a.txt",  # another port is another server
        "//elsewhere:8080{base}/a.txt",
        "http://user@pulp:8080{base}/a.txt",
        "ftp://pulp:8080{base}/a.txt",
        "/api/other",
        "{base}/",  # its links are relative to its own URL
        "{base}/dir/",
        "http://[broken{base}/a.txt",
    ],
)
def test_other_redirects_are_left_to_the_client(app, base, location):
    location = location.format(base=base)
    answer = ask(redirecting(location), app)
    assert (answer.status_code, answer.headers["Location"]) == (302, location)


def test_other_methods_and_answers_are_left_alone(app, base):
    assert ask(redirecting(f"{base}/a.txt"), app, method="POST").status_code == 302
    assert ask(redirecting(f"{base}/a.txt", 201), app).status_code == 201
    assert ask(redirecting(f"{base}/a.txt"), app, in_place=False).status_code == 302


def test_what_content_redirects_to_is_not_followed(app, base):
    """No loop, whatever plugins redirect to."""
    answer = ask(redirecting(f"{base}/dir"), app)
    assert answer.status_code == 301
    assert answer.headers["Location"].endswith(f"{base}/dir/")


def test_a_plugins_own_prefix_is_served_too(app):
    prefix = f"/pulp/{unique('blobs')}/"
    blob = redirecting("/pulp/elsewhere")
    mount(prefix, blob)

    async def content(scope, receive, send):
        await (mounted(scope) or app)(scope, receive, send)

    answer = ask(redirecting(f"{prefix}a?token=1"), content)
    assert answer.headers["Location"] == "/pulp/elsewhere", "the plugin's answer, and only one step"
