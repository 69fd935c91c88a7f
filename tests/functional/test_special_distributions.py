"""Checkpoint, artifact and OpenPGP distributions."""

import datetime
import hashlib
import re
import uuid

import httpx
import pytest
from pysequoia import Cert

from tests.support.listing_parser import parse_listing
from tests.support.pulp import unique

FORMAT = "%Y%m%dT%H%M%SZ"


@pytest.fixture(scope="module")
def checkpoints(instance):
    """The base path of a checkpoint distribution, and the times of its two checkpoints."""
    from pulpcore.app.models import Publication

    pulp = instance.pulp()
    repository = pulp.repository({"first.txt": b"first"})
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=500_000)
    times = []
    for hours, name in ((2, "second.txt"), (1, "third.txt")):
        href = pulp.publish(repository, checkpoint=True)
        moment = now - datetime.timedelta(hours=hours)
        Publication.objects.filter(pk=href.split("/")[-2]).update(pulp_created=moment)
        times.append(moment.strftime(FORMAT))
        pulp.upload(repository, name, name.encode())
    pulp.publish(repository)  # not a checkpoint
    base = pulp.distribute(repository=repository, checkpoint=True)
    yield base, times
    pulp.cleanup()


def shifted(timestamp: str, **by: int) -> str:
    moment = datetime.datetime.strptime(timestamp, FORMAT)
    return (moment + datetime.timedelta(**by)).strftime(FORMAT)


def test_checkpoint_distribution_lists_its_checkpoints(content, checkpoints):
    base, times = checkpoints
    lines = parse_listing(content.get(f"{base}/").text)
    assert list(lines) == [f"{time}/" for time in times]
    assert all(line.date for line in lines.values())
    assert content.get(base).status_code == 301
    assert content.head(f"{base}/").status_code == 200


def test_checkpoint_distribution_lists_its_checkpoints_as_json(content, checkpoints):
    base, times = checkpoints
    response = content.get(f"{base}/", headers={"Accept": "application/json"})
    entries = response.json()["entries"]
    assert [(entry["name"], entry["type"]) for entry in entries] == [
        (time, "directory") for time in times
    ]
    assert response.headers["Vary"] == "Accept-Encoding, Accept"
    below = content.get(f"{base}/{times[0]}/", headers={"Accept": "application/json"}).json()
    assert {entry["name"] for entry in below["entries"]} == {"first.txt", "PULP_MANIFEST"}


def test_checkpoint_serves_the_content_of_its_time(content, checkpoints):
    base, (old, new) = checkpoints
    assert content.get(f"{base}/{old}/first.txt").content == b"first"
    assert content.get(f"{base}/{old}/second.txt").status_code == 404
    assert content.get(f"{base}/{new}/second.txt").content == b"second.txt"
    assert content.get(f"{base}/{new}/third.txt").status_code == 404
    assert set(parse_listing(content.get(f"{base}/{old}/").text)) == {"first.txt", "PULP_MANIFEST"}


def test_checkpoint_of_another_time_redirects_to_the_one_before(content, checkpoints):
    base, (old, new) = checkpoints
    expected_times = {
        shifted(old, seconds=1): old,
        shifted(new, seconds=-1): old,
        shifted(new, minutes=30): new,
    }
    for time, expected_time in expected_times.items():
        for rest in ("/", "/first.txt", "/no/such thing?a=b"):
            response = content.get(f"{base}/{time}{rest}")
            assert response.status_code == 301
            where = httpx.URL(response.headers["Location"])
            expected = httpx.URL(f"/pulp/content/{base}/{expected_time}{rest}")
            assert (where.path, where.query) == (expected.path, expected.query)
    response = content.get(f"{base}/{old}")
    assert response.status_code == 301
    assert response.headers["Location"] == f"/pulp/content/{base}/{old}/"


def test_checkpoint_of_invalid_and_early_times_returns_404(content, checkpoints):
    base, (old, _) = checkpoints
    tomorrow = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).strftime(FORMAT)
    for time in (
        shifted(old, seconds=-1),
        tomorrow,
        "99991231T235959Z",
        "20259999T000000Z",
        "2025-01-01",
        "first.txt",
        old[:-1],
        f"{old}x",
        "00000000T000000Z",
    ):
        for rest in ("/", "/first.txt"):
            assert content.get(f"{base}/{time}{rest}").status_code == 404, time


def test_checkpoint_distribution_without_checkpoints_is_empty(content, pulp):
    base = pulp.distribute(repository=pulp.repository(), checkpoint=True)
    assert parse_listing(content.get(f"{base}/").text) == {}
    assert content.get(f"{base}/20250101T000000Z/a").status_code == 404


def artifact_url(instance, artifact) -> str:
    """Return the signed link of the REST API, on the instance's own origin."""
    from pulpcore.app.models import ArtifactDistribution

    link = ArtifactDistribution.objects.get().artifact_url(artifact)
    return instance.url + httpx.URL(link).raw_path.decode()


def test_artifact_distribution_serves_by_id_with_a_signed_url(instance, orm):
    from tests.support.orm import artifact as make

    data = b"an artifact"
    artifact = make(data)
    url = artifact_url(instance, artifact)
    response = httpx.get(url)
    assert response.content == data
    assert response.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert "attachment" in response.headers["Content-Disposition"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert httpx.get(url, headers={"Range": "bytes=3-5"}).content == data[3:6]
    unsigned = url.split("?")[0]
    assert httpx.get(unsigned).status_code == 403
    artifact.delete()
    assert httpx.get(url).status_code == 404


def test_artifact_distribution_with_an_invalid_id_returns_404(instance, orm):
    from pulpcore.app.models import Artifact

    for name in (str(uuid.uuid4()), "nonsense", uuid.uuid4().hex, "a/b", "0"):
        assert httpx.get(artifact_url(instance, Artifact(pk=name))).status_code == 404, name


def test_openpgp_distribution_serves_keys_as_files(content, pulp):
    keyring, cert = pulp.keyring()
    base = unique("keys")
    pulp.create(
        "distributions/core/openpgp/",
        name=base,
        base_path=base,
        repository=keyring,
    )
    (name,) = parse_listing(content.get(f"{base}/").text)
    assert re.fullmatch(r"[0-9A-Fa-f]{16}\.pub", name)
    key = content.get(f"{base}/{name}")
    assert key.headers["Content-Type"] == "application/pgp-keys; charset=us-ascii"
    assert key.headers["X-Content-Type-Options"] == "nosniff"
    assert Cert.from_bytes(key.content).fingerprint == cert.fingerprint
    head = content.head(f"{base}/{name}")
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(key.content)))
    assert content.get(f"{base}/{'0' * 16}.pub").status_code == 404
    assert content.get(f"{base}/other").status_code == 404


def test_openpgp_distribution_of_nothing_returns_404(content, pulp):
    base = unique("keys")
    pulp.create("distributions/core/openpgp/", name=base, base_path=base)
    response = content.get(f"{base}/{'0' * 16}.pub")
    assert response.status_code == 404
    assert "not pointing to" in response.text
