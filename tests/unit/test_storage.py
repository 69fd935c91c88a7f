"""Stores of domains: choice, signing, redirects and errors, without an object store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.test import override_settings

from pulpcore.app.models import Artifact, Domain
from pulpcore.content_star.responses.artifact import ArtifactResponse
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    ArtifactMissing,
    StoreReadError,
    StoreUnavailable,
)
from pulpcore.content_star.storage import backends
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.filelike import FileSource
from tests.support.asgi import get, state_of

S3 = {
    "access_key": "key",
    "secret_key": "very secret",
    "bucket_name": "bucket",
    "region_name": "us-east-1",
}


SCOPE = {"state": state_of(objects=None)}


def s3_domain(**settings: object) -> Domain:
    return Domain(
        name="stored",
        storage_class="storages.backends.s3.S3Storage",
        storage_settings={**S3, **settings},
        pulp_last_updated=datetime(2024, 1, 1, tzinfo=UTC),
    )


def artifact(size: int = 1000) -> Artifact:
    return Artifact(file="artifact/ab/cd", size=size, pulp_domain_id=None)


def test_store_is_created_once_for_all_threads():
    domain = s3_domain()
    together = threading.Barrier(8)

    def ask(number: int) -> backends.Store:
        together.wait(300)
        return backends.store_of(domain)

    with ThreadPoolExecutor(8) as threads:
        stores = set(threads.map(ask, range(8)))
    assert len(stores) == 1
    domain.pulp_last_updated = datetime(2024, 1, 2, tzinfo=UTC)
    assert backends.store_of(domain) not in stores


def test_signing_creates_no_client(monkeypatch: pytest.MonkeyPatch):
    """In whichever thread: the storage itself would make one in each."""
    boto3 = pytest.importorskip("boto3")
    domain = s3_domain()
    backends.store_of(domain)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a second client")

    monkeypatch.setattr(boto3.Session, "resource", refuse)
    with ThreadPoolExecutor(1) as thread:
        url = thread.submit(backends.redirect_url, domain, artifact(), {}, "GET").result(300)
        source = thread.submit(backends.artifact_source, domain, artifact(), SCOPE).result(300)
    assert url is not None
    assert "X-Amz-Signature" in url or "Signature" in url
    assert source.name == "artifact/ab/cd"


def test_custom_domain_is_used_for_clients_only():
    domain = s3_domain(custom_domain="cdn.example.com", endpoint_url="http://127.0.0.1:9")
    url = backends.redirect_url(domain, artifact(), {}, "GET")
    assert url is not None
    assert url.startswith("https://cdn.example.com/artifact/ab/cd")
    source = backends.artifact_source(domain, artifact(), SCOPE)
    assert source.target.url.startswith("http://127.0.0.1:9/bucket/artifact/ab/cd?")


def test_redirect_to_a_public_bucket_has_no_signature():
    url = backends.redirect_url(s3_domain(querystring_auth=False), artifact(), {}, "GET")
    assert url is not None
    assert "Signature" not in url


@pytest.mark.parametrize(
    ("setting", "label", "size", "redirected"),
    [
        (0, None, 0, True),
        (500, None, 499, False),
        (500, None, 500, True),
        (500, "0", 499, True),
        (0, "500", 499, False),
        (0, "500", 500, True),
        (500, "half", 499, False),
    ],
)
def test_redirect_min_size_by_setting_and_label(setting, label, size, redirected):
    domain = s3_domain()
    if label is not None:
        domain.pulp_labels = {backends.MIN_SIZE_LABEL: label}
    with override_settings(CONTENT_STAR_REDIRECT_MIN_SIZE=setting):
        assert (backends.redirect_url(domain, artifact(size), {}, "GET") is not None) == redirected


@pytest.mark.parametrize(("life", "seconds"), [(60, 30), (3600, 300)])
def test_signed_urls_are_cached_for_half_their_lifetime_at_most(life, seconds):
    assert backends.url_cache_seconds(s3_domain(querystring_expire=life)) == seconds


def test_domain_without_redirects_has_no_redirect_url():
    domain = s3_domain()
    domain.redirect_to_object_storage = False
    assert backends.redirect_url(domain, artifact(), {}, "GET") is None


def test_storage_errors_hide_the_settings():
    with pytest.raises(StoreUnavailable) as failure:
        backends.artifact_source(s3_domain(endpoint_url="very secret"), artifact(), SCOPE)
    assert "ValueError" in str(failure.value)
    assert "very secret" not in str(failure.value)
    assert failure.value.__suppress_context__


def other(domain_storage: object) -> Domain:
    """Return the default domain, with a storage that only Django knows."""
    domain = Domain(
        name="other", storage_class="other.Storage", pulp_last_updated=datetime.now(UTC)
    )
    domain.get_storage = lambda: domain_storage
    return domain


def test_file_system_storage_is_read_from_the_disk(tmp_path):
    domain = other(FileSystemStorage(location=tmp_path))
    source = backends.artifact_source(domain, artifact(), SCOPE)
    assert isinstance(source, LocalSource)
    assert source.name == str(tmp_path / "artifact/ab/cd")
    assert backends.redirect_url(domain, artifact(), {}, "GET") is None


def respond(entry: object, size: int) -> ArtifactResponse:
    source = backends.artifact_source(other(entry), artifact(), SCOPE)
    assert isinstance(source, FileSource)
    return ArtifactResponse(
        source, size=size, sha256="ab", last_modified=None, filename="cd", headers={}
    )


def test_other_storage_is_read_by_its_open_method():
    data = bytes(range(256)) * (3 * CHUNK_SIZE // 256) + b"end"
    entry = InMemoryStorage()
    entry.save("artifact/ab/cd", ContentFile(data))
    app = respond(entry, len(data))
    assert get(app, "/").content == data
    part = get(app, "/", {"Range": f"bytes=7-{2 * CHUNK_SIZE}"})
    assert (part.status_code, part.content) == (206, data[7 : 2 * CHUNK_SIZE + 1])
    several = get(app, "/", {"Range": "bytes=900-909,0-9"})
    assert several.content.index(data[900:910]) < several.content.index(data[:10])


def test_other_storage_without_the_file_raises_artifact_missing():
    with pytest.raises(ArtifactMissing):
        get(respond(InMemoryStorage(), 10), "/")


def test_other_storage_with_another_size_raises_artifact_missing():
    entry = InMemoryStorage()
    entry.save("artifact/ab/cd", ContentFile(b"short"))
    with pytest.raises(ArtifactMissing):
        get(respond(entry, 10), "/")


class Failing(InMemoryStorage):
    """A storage whose errors tell too much."""

    def _open(self, name: str, mode: str = "rb") -> ContentFile:
        raise RuntimeError("very secret")


class Breaking(InMemoryStorage):
    """A storage whose files end early."""

    def _open(self, name: str, mode: str = "rb") -> ContentFile:
        file = ContentFile(b"short")
        file.size = 4 * CHUNK_SIZE
        return file


def test_other_storage_that_fails_raises_store_unavailable():
    with pytest.raises(StoreUnavailable) as failure:
        get(respond(Failing(), 10), "/")
    assert "very secret" not in str(failure.value)


def test_other_storage_that_ends_early_raises_store_read_error():
    with pytest.raises(StoreReadError):
        get(respond(Breaking(), 4 * CHUNK_SIZE), "/")
