"""Routing of URLs to the content app or to Django."""

from types import ModuleType

import pytest
from django.urls import path, set_urlconf
from starlette.responses import PlainTextResponse

from pulpcore import routing
from pulpcore.routing import Router
from tests.support.asgi import get, get_raw

ROUTER = Router(
    content=PlainTextResponse("content"),
    django=PlainTextResponse("django"),
    content_prefix="/pulp/content/",
)


@pytest.mark.parametrize(
    ("url", "application"),
    [
        ("/pulp/content/", "content"),
        ("/pulp/content", "content"),
        ("/pulp/content/a/b", "content"),
        ("/pulp%2Fcontent/a", "content"),
        ("/pulp/contents/", "django"),
        ("/pulp/api/v3/", "django"),
        ("/pulp/", "django"),
        ("/", "django"),
        ("/x/pulp/content/", "django"),
    ],
)
def test_content_paths_are_routed_to_content_and_others_to_django(url, application):
    assert get(ROUTER, url).text == application


@pytest.mark.parametrize(
    "path",
    [
        "/pulp/api/v3/status/../users/",
        "/pulp/api/v3/status/%2e%2e/users/",
        "/pulp/api/v3/status/.%2E/%2e%2E/content/",
        "/pulp/api/v3/status/%2e%2e%2fusers/",
        "/pulp/api/v3/status/x%2F..",
        "/pulp/api/./v3/status/",
        "/pulp/api/v3/status/.",
        "/pulp/./content/a",
        "/pulp/api/%2e./content/a",
        "/..",
        "/%2e",
    ],
)
def test_dot_segments_of_django_paths_return_400(path):
    answer = get_raw(ROUTER, path)
    assert (answer.status_code, "dot segments" in answer.text) == (400, True)


@pytest.mark.parametrize(
    "path", ["/pulp/...", "/pulp/.well-known/x", "/pulp/a..b/.c", "/pulp/%252e%252e/a", "/a./b"]
)
def test_names_with_dots_are_routed_to_django(path):
    assert get_raw(ROUTER, path).text == "django"


def test_root_path_is_not_part_of_the_content_prefix():
    assert get(ROUTER, "/mounted/pulp/content/a", root_path="/mounted").text == "content"
    assert get(ROUTER, "/mounted/pulp/api/", root_path="/mounted").text == "django"


BROWSABLE = Router(
    content=PlainTextResponse("content"),
    django=PlainTextResponse("django"),
    content_prefix="/pulp/content/",
    root_redirect="/pulp/content/",
)


def test_root_redirects_to_content_below_the_root_path():
    assert get(BROWSABLE, "/").headers["Location"] == "/pulp/content/"
    mounted = get(BROWSABLE, "/mounted/", root_path="/mounted")
    assert mounted.headers["Location"] == "/mounted/pulp/content/"
    assert get(BROWSABLE, "/", method="POST").text == "django"
    assert get(BROWSABLE, "/x").text == "django"


def test_favicon_is_served():
    for method in ("GET", "HEAD"):
        icon = get(ROUTER, "/favicon.ico", method=method)
        assert icon.headers["Content-Type"] == "image/svg+xml"


def test_django_view_at_the_root_is_used():
    urls = ModuleType("urls")
    urls.urlpatterns = [path("", lambda request: None), path("favicon.ico", lambda request: None)]
    set_urlconf(urls)
    routing._has_view.cache_clear()
    try:
        assert get(BROWSABLE, "/").text == "django"
        assert get(BROWSABLE, "/favicon.ico").text == "django"
    finally:
        set_urlconf(None)
        routing._has_view.cache_clear()
