"""The hooks of a plugin's distribution, through the whole content app in this process."""

import hashlib

import pytest
from pulp_file.app.models import FileDistribution

from tests.support.asgi import get
from tests.support.listing_parser import parse_listing


@pytest.fixture
def base(orm) -> str:
    publication = orm.publication({"a.txt": b"published", "dir/b.txt": b"below"})
    return "/pulp/content/" + orm.distribution(publication=publication)


def test_content_headers_for_adds_headers_and_replaces_type_and_cache_control(
    app, base, monkeypatch
):
    def content_headers_for(self, path):
        return {"content-type": "x/y", "Cache-Control": "no-cache", "X-Path": path, "ETag": "mine"}

    monkeypatch.setattr(FileDistribution, "content_headers_for", content_headers_for)
    response = get(app, f"{base}/dir/b.txt")
    assert response.content == b"below"
    assert response.headers["Content-Type"] == "x/y"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Path"] == "dir/b.txt"
    assert response.headers["ETag"] != "mine", "the file's own"


def test_content_handler_list_directory_adds_entries(app, base, monkeypatch):
    extra = {"": {"config.repo", "a.txt", "virtual/"}, "virtual/": {"x"}}
    monkeypatch.setattr(
        FileDistribution, "content_handler_list_directory", lambda self, p: extra.get(p, set())
    )
    lines = parse_listing(get(app, f"{base}/").text)
    assert list(lines) == ["a.txt", "config.repo", "dir/", "virtual/"]
    assert lines["a.txt"].size == "9 Bytes", "the published file's entry wins"
    assert lines["config.repo"].size == ""
    assert get(app, f"{base}/virtual").status_code == 301
    assert list(parse_listing(get(app, f"{base}/virtual/").text)) == ["x"]


def test_content_handler_may_return_a_content_artifact(app, base, orm, monkeypatch):
    from pulpcore.app.models import ContentArtifact

    content = orm.content({"elsewhere/name.bin": b"from the plugin"})
    found = ContentArtifact.objects.select_related("artifact").get(content__in=content)
    monkeypatch.setattr(
        FileDistribution, "content_handler", lambda self, p: found if p == "virtual" else None
    )
    response = get(app, f"{base}/virtual")
    assert response.content == b"from the plugin"
    assert 'filename="name.bin"' in response.headers["Content-Disposition"]
    assert response.headers["Last-Modified"]
    assert get(app, f"{base}/a.txt").content == b"published", "None: the published file"


def test_content_handler_result_of_unknown_type_returns_501(app, base, monkeypatch):
    monkeypatch.setattr(FileDistribution, "content_handler", lambda self, p: object())
    response = get(app, f"{base}/a.txt")
    assert response.status_code == 501
    assert "plugin" in response.text


def test_content_handler_that_fails_returns_500(app, base, monkeypatch, caplog):
    def content_handler(self, path):
        raise LookupError("broken plugin")

    monkeypatch.setattr(FileDistribution, "content_handler", content_handler)
    response = get(app, f"{base}/a.txt")
    assert response.status_code == 500
    assert response.headers["Correlation-ID"] in response.text
    assert "broken plugin" not in response.text
    assert "broken plugin" in caplog.text


def test_get_repository_publication_and_version_selects_the_source(app, orm, monkeypatch):
    base = "/pulp/content/" + orm.distribution()
    version = orm.version({"other.txt": b"other"})
    publication = orm.publication({}, version)
    monkeypatch.setattr(
        FileDistribution,
        "get_repository_publication_and_version",
        lambda self: (version.repository, version, publication),
    )
    assert get(app, f"{base}/other.txt").content == b"other"
    assert "no 'a.txt'" in get(app, f"{base}/a.txt").text


@pytest.mark.parametrize("with_version", [True, False])
def test_get_fallback_ca_serves_replaced_content(app, base, orm, monkeypatch, with_version):
    from pulpcore.app.models import ContentArtifact

    version = orm.version({"old.txt": b"old"})
    found = ContentArtifact.objects.select_related("artifact").get(content__in=version.content)
    fallback = (found, version) if with_version else found
    monkeypatch.setattr(
        FileDistribution, "get_fallback_ca", lambda self, p: fallback if p == "old.txt" else None
    )
    assert get(app, f"{base}/old.txt").content == b"old"
    assert get(app, f"{base}/older.txt").status_code == 404


def test_file_missing_or_damaged_in_the_storage_returns_404(app, base, orm, instance, caplog):
    from pulpcore.app.models import Artifact

    artifact = Artifact.objects.get(sha256=hashlib.sha256(b"below").hexdigest())
    path = instance.state.media / artifact.file.name
    data = path.read_bytes()
    try:
        for broken in (data + b"!", None):
            path.unlink() if broken is None else path.write_bytes(broken)
            caplog.clear()
            response = get(app, f"{base}/dir/b.txt")
            assert response.status_code == 404
            assert str(path) not in response.text
            assert artifact.file.name in caplog.text
    finally:
        path.write_bytes(data)
    assert get(app, f"{base}/dir/b.txt").content == data


def test_content_without_artifact_and_remote_returns_404(app, orm):
    from pulpcore.app.models import ContentArtifact

    version = orm.version({"remote.bin": b"not here yet"})
    ContentArtifact.objects.filter(content__in=version.content).update(artifact=None)
    base = orm.distribution(publication=orm.publication({}, version))
    response = get(app, f"/pulp/content/{base}/remote.bin")
    assert response.status_code == 404
    assert "no remote has it" in response.text
    assert list(parse_listing(get(app, f"/pulp/content/{base}/").text)) == ["remote.bin"]
