"""What views of plugins, written for WSGI, find in our process."""

import asyncio

import httpx
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import clear_url_caches, path
from django.views.decorators.csrf import csrf_exempt

from pulpcore.content_star.api import create_api


@csrf_exempt
def body(request: HttpRequest) -> HttpResponse:
    """Read a body as pulp_container and pulp_maven do, and the rest as Django does."""
    start = request.META["wsgi.input"].read(4)
    return HttpResponse(start + b"|" + request.read())


def fetch(request: HttpRequest) -> HttpResponse:
    """Wait for something as Pulp's downloaders do."""
    return HttpResponse(asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, "fetched")))


@pytest.fixture
def api(instance, monkeypatch):
    patterns = [path("body", body), path("fetch", fetch)]
    monkeypatch.setattr(f"{settings.ROOT_URLCONF}.urlpatterns", patterns)
    clear_url_caches()
    yield create_api()
    clear_url_caches()


def ask(api, method: str, url: str, **content) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            return await client.request(method, url, **content)

    return asyncio.run(request())


def test_the_body_is_where_wsgi_has_it(api):
    assert ask(api, "PUT", "/body", content=b"0123456789").text == "0123|456789"


def test_views_may_wait_in_an_event_loop_of_their_own(api):
    assert ask(api, "GET", "/fetch").text == "fetched"
