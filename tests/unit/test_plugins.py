"""Declarations of plugins, and settings of legacy plugins."""

from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute

from pulpcore.app.models import Distribution
from pulpcore.content_star.plugin import PublicationApp, Route, serves
from pulpcore.content_star.plugin_host.discovery import declared, serving_mode


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, (set(), None)),
        ({"content_implementations": {"aiohttp"}}, ({"aiohttp"}, None)),
        ({"content_implementations": ["star"], "content_star": "a.b"}, ({"star"}, "a.b")),
        (
            {"content_implementations": {"aiohttp", "star"}, "content_star": "a.b"},
            ({"aiohttp", "star"}, "a.b"),
        ),
    ],
)
def test_declaration_of_implementations_is_read(attributes, expected):
    assert declared(SimpleNamespace(label="x", **attributes)) == expected


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (
            {"content_implementations": "star", "content_star": "a.b"},
            "must be a set of strings, not 'star'",
        ),
        ({"content_implementations": {1}}, "must be a set"),
        ({"content_implementations": 5}, "must be a set"),
        ({"content_implementations": {"flask", "star"}, "content_star": "a.b"}, "not ['flask']"),
        ({"content_implementations": {"star"}}, "requires content_star"),
        ({"content_star": "a.b"}, "requires content_star"),
        ({"content_implementations": {"aiohttp"}, "content_star": "a.b"}, "requires content_star"),
        ({"content_implementations": {"star"}, "content_star": 5}, "requires content_star"),
    ],
)
def test_invalid_declaration_names_the_plugin(attributes, words):
    with pytest.raises(ImproperlyConfigured, match="plugin 'x'") as error:
        declared(SimpleNamespace(label="x", **attributes))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"CONTENT_STAR_LEGACY_PLUGINS": "ignore"}, "not 'ignore'"),
        ({"CONTENT_STAR_LEGACY_PLUGINS": "proxy"}, "requires CONTENT_STAR_LEGACY_URL"),
    ],
)
def test_invalid_legacy_settings_are_refused(settings, words):
    with override_settings(**settings), pytest.raises(ImproperlyConfigured, match=words):
        serving_mode()


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        5,
        "localhost:24816",
        "//localhost:24816",
        "ftp://localhost",
        "http://",
        "http://:24816",
        "http://localhost:port",
        "http://localhost:99999",
        "http://localhost:0",
        "http://[::1",
        "http://localhost/pulp/content/",
        "http://localhost//",
        "http://localhost/?a=b",
        "http://localhost#a",
        "http://admin:hunter2@localhost",
    ],
)
def test_legacy_url_that_is_no_origin_is_refused(url):
    proxy = {"CONTENT_STAR_LEGACY_PLUGINS": "proxy", "CONTENT_STAR_LEGACY_URL": url}
    with override_settings(**proxy), pytest.raises(ImproperlyConfigured) as error:
        serving_mode()
    assert "http://host:port" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:24816", "https://pulp.example/", "HTTP://[::1]:24816"]
)
def test_legacy_url_that_is_an_origin_is_accepted(url):
    with override_settings(CONTENT_STAR_LEGACY_PLUGINS="proxy", CONTENT_STAR_LEGACY_URL=url):
        assert serving_mode() == "proxied"


def blocking(request):
    raise AssertionError("nobody calls it")


async def coroutine(request):
    raise AssertionError("nobody calls it")


class BlockingEndpoint(HTTPEndpoint):
    def get(self, request):
        raise AssertionError("nobody calls it")


@pytest.mark.parametrize(
    "route",
    [
        StarletteRoute("/x", blocking),
        StarletteRoute("/x", BlockingEndpoint),
        Route("/x", BlockingEndpoint),
        Mount("/y", routes=[StarletteRoute("/x", blocking)]),
    ],
)
def test_blocking_handlers_in_starlettes_routes_are_refused(route):
    class App(PublicationApp):
        routes = (route,)

    with pytest.raises(TypeError, match=r"'/x'.*blocks"):
        serves(Distribution)(App)


def test_serves_refuses_other_models_and_classes():
    class App(PublicationApp):
        routes = (StarletteRoute("/x", coroutine), Route("/y", blocking))

    with pytest.raises(TypeError, match="not a distribution model"):
        serves(PublicationApp)(App)
    with pytest.raises(TypeError, match="not a DistributionApp"):
        serves(Distribution)(HTTPEndpoint)
