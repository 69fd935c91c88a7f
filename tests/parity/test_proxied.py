"""Plugins that stay with upstream's content app, reached through ours."""

import asyncio

import httpx
import pytest
from pulp_file.app.models import FileDistribution

from pulpcore.content_star import plugins
from pulpcore.content_star.proxy import proxy_client
from tests.server import free_port


@pytest.fixture
def proxied(monkeypatch, settings_of):
    """Let pulp_file have a hook for aiohttp here, which upstream's process knows nothing of."""

    def content_handler(self, path):
        raise AssertionError("asked here")

    monkeypatch.setattr(FileDistribution, "content_handler", content_handler)


@pytest.fixture
def settings_of(monkeypatch, upstream):
    from django.conf import settings

    root = upstream.removesuffix("/pulp/content/")
    monkeypatch.setattr(settings, "CONTENT_STAR_UNPORTED", "proxy", raising=False)
    monkeypatch.setattr(settings, "CONTENT_STAR_LEGACY_URL", root, raising=False)
    plugins.plugins.cache_clear()
    yield settings
    monkeypatch.undo()
    plugins.plugins.cache_clear()


def ask(app, path: str, **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            proxy_client(),
            httpx.AsyncClient(transport=transport, base_url="http://pulp") as client,
        ):
            return await client.get(path, headers=headers)

    return asyncio.run(request())


def test_upstreams_content_app_answers_for_the_plugin(app, orm, proxied):
    publication = orm.publication({"a.txt": b"0123456789", "dir/b": b"b"})
    base = "/pulp/content/" + orm.distribution(publication=publication)
    assert plugins.plugins()["file"].served == "proxied"
    answer = ask(app, f"{base}/a.txt")
    assert answer.content == b"0123456789"
    assert ask(app, f"{base}/a.txt", Range="bytes=2-3").content == b"23"
    assert ask(app, f"{base}/nope").status_code == 404
    assert "dir/" in ask(app, f"{base}/").text


def test_what_they_send_cannot_script_the_apis_origin(app, orm, proxied):
    base = "/pulp/content/" + orm.distribution(publication=orm.publication({"x.html": b"<p>"}))
    headers = ask(app, f"{base}/x.html").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]


def test_our_guard_is_asked_first(app, orm, proxied):
    from pulpcore.app.models import HeaderContentGuard

    guard = orm.guard(HeaderContentGuard, header_name="X-Key", header_value="open")
    publication = orm.publication({"a": b"secret"})
    base = "/pulp/content/" + orm.distribution(publication=publication, content_guard=guard)
    assert ask(app, f"{base}/a").status_code == 403
    assert ask(app, f"{base}/a", **{"X-Key": "b3Blbg=="}).content == b"secret"


def test_a_content_app_that_has_gone_is_502(app, orm, proxied, settings_of, monkeypatch):
    base = "/pulp/content/" + orm.distribution(publication=orm.publication({"a": b"a"}))
    gone = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(settings_of, "CONTENT_STAR_LEGACY_URL", gone)
    answer = ask(app, f"{base}/a")
    assert answer.status_code == 502
    assert gone not in answer.text
