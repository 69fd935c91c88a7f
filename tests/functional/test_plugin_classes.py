"""Distribution classes of plugins, through the whole content app in this process."""

import hashlib
from collections.abc import Callable, Iterator

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
def serve() -> Iterator[Callable[..., None]]:
    """Return a function that registers a class for the distributions of a model."""
    earlier = registry.registered()

    def serve(app: type, model: type = FileDistribution) -> None:
        registry.restore({**registry.registered(), (model, False): app})

    yield serve
    registry.restore(earlier)


@pytest.fixture
def base(orm) -> str:
    version = orm.version({"a.txt": b"content"})
    publication = orm.publication({"meta.txt": b"published"}, version)
    return "/pulp/content/" + orm.distribution(publication=publication)


@isolate_apps("pulp_file.app")
def test_model_is_served_by_the_class_of_its_nearest_ancestor(serve):
    # Types of their own: pulpcore finds the class of a type among all that exist in the process.
    class Special(FileDistribution):
        TYPE = "special"

        class Meta:
            proxy = True
            app_label = "file"
            default_related_name = "%(app_label)s_%(model_name)s"

    class VerySpecial(Special):
        TYPE = "very-special"

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


def test_repository_version_app_ignores_the_publication(app, base, serve):
    assert get(app, f"{base}/meta.txt").content == b"published"
    serve(RepositoryVersionApp)
    assert get(app, f"{base}/a.txt").content == b"content"
    assert get(app, f"{base}/meta.txt").status_code == 404
    assert list(parse_listing(get(app, f"{base}/").text)) == ["a.txt"]


def test_repository_version_app_serves_the_latest_unpublished_version(app, orm, serve):
    version = orm.version({"a.txt": b"content"})
    base = "/pulp/content/" + orm.distribution(repository=version.repository)
    assert get(app, f"{base}/a.txt").status_code == 404
    serve(RepositoryVersionApp)
    assert get(app, f"{base}/a.txt").content == b"content"


@pytest.fixture
def pull_through_base(orm, server, monkeypatch) -> str:
    """The base path of a distribution whose publication and remote have a path in common."""

    def content_of(artifact, path):
        return FileContent(relative_path=path, digest=artifact.sha256)

    monkeypatch.setattr(FileRemote, "get_remote_artifact_content_type", lambda *_: FileContent)
    monkeypatch.setattr(FileContent, "init_from_artifact_and_relative_path", content_of)
    folder = orm.unique()
    server.files[f"{folder}/a.txt"] = b"of the remote"
    remote = orm._save(FileRemote(name=folder, url=f"{server.url}{folder}/", policy="on_demand"))
    published = orm.publication({"a.txt": b"of Pulp's own", "b.txt": b"there alone"})
    return orm.distribution(publication=published, remote=remote)


def test_pull_through_app_serves_the_remote_only(get_in_process, pull_through_base, serve, server):
    assert get_in_process(f"{pull_through_base}/a.txt").content == b"of Pulp's own"
    serve(PullThroughApp)
    before = sum(server.gets.values())
    for _ in range(3):
        assert get_in_process(f"{pull_through_base}/a.txt").content == b"of the remote"
    assert sum(server.gets.values()) == before + 1, "saved by the first request"
    assert get_in_process(f"{pull_through_base}/b.txt").status_code == 404


def test_pull_through_app_without_a_remote_returns_404(app, base, serve):
    serve(PullThroughApp)
    response = get(app, f"{base}/a.txt")
    assert response.status_code == 404
    assert "has no remote" in response.text


def test_artifact_app_serves_the_found_artifacts(app, base, serve):
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


def test_find_content_of_a_class_replaces_content_handler(app, base, serve, orm, monkeypatch):
    from pulpcore.app.models import ContentArtifact

    content = orm.content({"elsewhere.bin": b"found"})
    found = ContentArtifact.objects.select_related("artifact").get(content__in=content)

    class App(PublicationApp):
        def find_content(self, path):
            return found if path == "virtual" else None

    monkeypatch.setattr(FileDistribution, "content_handler", lambda self, path: object())
    assert get(app, f"{base}/virtual").status_code == 501, "the result of content_handler"
    serve(App)
    assert get(app, f"{base}/virtual").content == b"found"
    assert get(app, f"{base}/a.txt").content == b"content"


def test_usage_markup_is_shown_unescaped(app, base, serve):
    class App(PublicationApp):
        def usage(self):
            return format_html("<p>Get <code>{}</code></p>", "<a.txt>")

    serve(App)
    page = get(app, f"{base}/")
    assert "<section><p>Get <code>&lt;a.txt&gt;</code></p></section>" in page.text
    assert page.headers["Content-Security-Policy"].startswith("sandbox")


def test_root_url_has_the_origin_of_clients(app, orm, serve, origin):
    base = "/pulp/content/" + orm.distribution(publication=orm.publication({"dir/x": b"x"}))

    class App(PublicationApp):
        def extra_headers(self, path):
            return {"X-Root": self.root_url}

    serve(App)
    assert get(app, f"{base}/dir/x").headers["X-Root"] == f"{origin}{base}/"


@pytest.fixture(params=[None, "https://pulp.example/"])
def origin(request) -> Iterator[str]:
    """The origin of `CONTENT_ORIGIN`, or of the request without it."""
    with override_settings(CONTENT_ORIGIN=request.param):
        yield (request.param or "http://pulp").rstrip("/")
