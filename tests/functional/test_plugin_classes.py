"""Classes for plugins, asked through the whole content app in this process."""

import hashlib
from collections.abc import Iterator

import pytest
from django.test import override_settings
from django.test.utils import isolate_apps
from django.utils.html import format_html
from pulp_file.app.models import FileContent, FileDistribution, FileRemote

from pulpcore.app.models import Artifact, Distribution
from pulpcore.content_star.distributions import registry
from pulpcore.content_star.plugin import (
    ArtifactApp,
    PublicationApp,
    PullThroughApp,
    RepositoryVersionApp,
)
from tests.support.asgi import get
from tests.support.listing_parser import parse_listing


@pytest.fixture
def serve(monkeypatch):
    """Have the distributions of a model served by a class until the end of the test."""

    def serve(app: type, model: type = FileDistribution) -> None:
        monkeypatch.setitem(registry._registered, (model, False), app)

    return serve


@pytest.fixture
def base(orm) -> str:
    version = orm.version({"a.txt": b"content"})
    publication = orm.publication({"meta.txt": b"published"}, version)
    return "/pulp/content/" + orm.distribution(publication=publication)


@isolate_apps("pulp_file.app")
def test_a_model_is_served_by_the_class_of_the_nearest_model_above_it(serve):
    class Special(FileDistribution):
        class Meta:
            proxy = True
            app_label = "file"
            default_related_name = "%(app_label)s_%(model_name)s"

    class VerySpecial(Special):
        class Meta:
            proxy = True
            app_label = "file"
            default_related_name = "%(app_label)s_%(model_name)s"

    assert registry.app_of(VerySpecial) is registry.app_of(Distribution)
    serve(RepositoryVersionApp)
    assert registry.app_of(VerySpecial) is RepositoryVersionApp
    serve(PullThroughApp, Special)
    assert registry.app_of(VerySpecial) is PullThroughApp
    assert registry.app_of(FileDistribution) is RepositoryVersionApp


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


@pytest.fixture
def cached(orm, server, monkeypatch) -> str:
    """The base path of a distribution with a publication and a remote, which have one path both."""

    def content_of(artifact, path):
        return FileContent(relative_path=path, digest=artifact.sha256)

    monkeypatch.setattr(FileRemote, "get_remote_artifact_content_type", lambda *_: FileContent)
    monkeypatch.setattr(FileContent, "init_from_artifact_and_relative_path", content_of)
    folder = orm.unique()
    server.files[f"{folder}/a.txt"] = b"of the remote"
    remote = orm._save(FileRemote(name=folder, url=f"{server.url}{folder}/", policy="on_demand"))
    published = orm.publication({"a.txt": b"of Pulp's own", "b.txt": b"there alone"})
    return orm.distribution(publication=published, remote=remote)


def test_a_cache_has_what_its_remote_has_and_nothing_else(here, cached, serve, server):
    assert here(f"{cached}/a.txt").content == b"of Pulp's own"
    serve(PullThroughApp)
    asked = sum(server.gets.values())
    for _ in range(3):
        assert here(f"{cached}/a.txt").content == b"of the remote"
    assert sum(server.gets.values()) == asked + 1, "then it is saved"
    assert here(f"{cached}/b.txt").status_code == 404


def test_a_cache_without_a_remote_says_so(app, base, serve):
    serve(PullThroughApp)
    response = get(app, f"{base}/a.txt")
    assert response.status_code == 404
    assert "has no remote" in response.text


def test_artifacts_are_served_at_the_paths_that_a_class_finds_them_for(app, base, serve):
    class Blobs(ArtifactApp):
        def find_artifact(self, path):
            digest = path.removeprefix("blobs/").removesuffix(".txt")
            return Artifact.objects.filter(sha256=digest).first()

        def extra_headers(self, path):
            return {"X-Blob": path}

    serve(Blobs)
    digest = hashlib.sha256(b"content").hexdigest()
    path = f"blobs/{digest}.txt"
    blob = get(app, f"{base}/{path}")
    assert (blob.content, blob.headers["ETag"]) == (b"content", f'"{digest}"')
    assert (blob.headers["Content-Type"], blob.headers["X-Blob"]) == ("text/plain", path)
    assert f'filename="{digest}.txt"' in blob.headers["Content-Disposition"]
    assert get(app, f"{base}/{path}", {"Range": "bytes=1-2"}).content == b"on"
    assert get(app, f"{base}/blobs/{'0' * 64}").status_code == 404


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
