"""A connection to the database that is lost during COMMIT, so that its outcome is unknown."""

import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest

from pulpcore.app.models import Artifact
from tests.support.database_proxy import DatabaseProxy, database_proxy, databases_through
from tests.support.server import Server, serving

pytestmark = pytest.mark.slow

INSERT = b'INSERT INTO "core_artifact"'
WAYS = pytest.mark.parametrize("delivered", [True, False], ids=["committed", "rolled-back"])


@pytest.fixture(scope="module")
def proxy() -> Iterator[DatabaseProxy]:
    with database_proxy() as running:
        yield running


@pytest.fixture(scope="module")
def served(instance, proxy) -> Iterator[Server]:
    """A server whose connections to the database go through `proxy`."""
    with serving(instance, PULP_DATABASES=databases_through(instance, proxy)) as running:
        yield running


@WAYS
def test_fetched_file_is_saved_once_if_the_commit_is_lost(served, proxy, remote_file, delivered):
    file = remote_file(5000)
    lost = proxy.lost_commits
    proxy.lose_commit(INSERT, delivered=delivered)
    for _ in range(2):
        assert httpx.get(served.content_url + file.path).content == file.data
    assert proxy.lost_commits == lost + 1
    file.wait_until_saved()
    assert file.gets == [1]
    saved = Artifact.objects.filter(sha256=hashlib.sha256(file.data).hexdigest())
    assert [artifact.file.read() for artifact in saved] == [file.data]


@WAYS
def test_upload_can_be_repeated_if_the_commit_is_lost(instance, served, proxy, orm, delivered):
    """The first response says that the database was lost, the second one whether it is there."""
    data = os.urandom(5000)
    digest = hashlib.sha256(data).hexdigest()
    lost = proxy.lost_commits
    proxy.lose_commit(INSERT, delivered=delivered)
    with instance.client(served.url) as client:
        first, second = (
            client.post("/pulp/api/v3/artifacts/", files={"file": data}) for _ in range(2)
        )
    assert proxy.lost_commits == lost + 1
    assert (first.status_code, "Retry-After" in first.headers) == (503, True), first.text
    if delivered:
        assert second.status_code == 400
        assert digest in second.text
    else:
        assert second.status_code == 201
    (artifact,) = Artifact.objects.filter(sha256=digest)
    assert artifact.file.read() == data
    artifact.delete()
