"""Classes for plugins, asked through the whole content app in this process."""

from collections.abc import Iterator

import pytest
from django.test import override_settings
from django.utils.html import format_html
from pulp_file.app.models import FileDistribution

from pulpcore.content_star.distributions import registry
from pulpcore.content_star.plugin import PublicationApp, RepositoryVersionApp
from tests.asgi import get
from tests.listing import parse_listing


@pytest.fixture
def serve(monkeypatch):
    """Have pulp_file's distributions served by a class until the end of the test."""

    def serve(app: type) -> None:
        monkeypatch.setitem(registry._claims, (FileDistribution, False), app)

    return serve


@pytest.fixture
def base(orm) -> str:
    version = orm.version({"a.txt": b"content"})
    publication = orm.publication({"meta.txt": b"published"}, version)
    return "/pulp/content/" + orm.distribution(publication=publication)


def test_a_repository_version_is_served_without_what_was_published_of_it(app, base, serve):
    assert get(app, f"{base}/meta.txt").content == b"published"
    serve(RepositoryVersionApp)
    assert get(app, f"{base}/a.txt").content == b"content"
    assert get(app, f"{base}/meta.txt").status_code == 404
    assert list(parse_listing(get(app, f"{base}/").text)) == ["a.txt"]


def test_the_latest_version_is_served_whether_published_or_not(app, orm, serve):
    version = orm.version({"a.txt": b"content"})
    base = "/pulp/content/" + orm.distribution(repository=version.repository)
    assert get(app, f"{base}/a.txt").status_code == 404
    serve(RepositoryVersionApp)
    assert get(app, f"{base}/a.txt").content == b"content"


def test_a_class_that_finds_content_is_asked_in_place_of_the_models_hook(
    app, base, serve, orm, monkeypatch
):
    from pulpcore.app.models import ContentArtifact

    content = orm.content({"elsewhere.bin": b"found"})
    found = ContentArtifact.objects.select_related("artifact").get(content__in=content)

    class App(PublicationApp):
        def find_content(self, path):
            return found if path == "virtual" else None

    monkeypatch.setattr(FileDistribution, "content_handler", lambda self, path: object())
    assert get(app, f"{base}/virtual").status_code == 501, "the hook's answer"
    serve(App)
    assert get(app, f"{base}/virtual").content == b"found"
    assert get(app, f"{base}/a.txt").content == b"content"


def test_markup_that_says_so_is_shown_as_it_is(app, base, serve):
    class App(PublicationApp):
        def usage(self):
            return format_html("<p>Get <code>{}</code></p>", "<a.txt>")

    serve(App)
    page = get(app, f"{base}/")
    assert "<section><p>Get <code>&lt;a.txt&gt;</code></p></section>" in page.text
    assert page.headers["Content-Security-Policy"].startswith("sandbox")


def test_the_root_is_where_clients_know_it(app, orm, serve, origin):
    base = "/pulp/content/" + orm.distribution(publication=orm.publication({"dir/x": b"x"}))

    class App(PublicationApp):
        def extra_headers(self, path):
            return {"X-Root": self.root_url}

    serve(App)
    assert get(app, f"{base}/dir/x").headers["X-Root"] == f"{origin}{base}/"


@pytest.fixture(params=[None, "https://pulp.example/"])
def origin(request) -> Iterator[str]:
    """The origin that clients know: of `CONTENT_ORIGIN`, or of their own request."""
    with override_settings(CONTENT_ORIGIN=request.param):
        yield (request.param or "http://pulp").rstrip("/")
