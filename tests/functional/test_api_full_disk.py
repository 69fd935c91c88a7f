"""Uploads to the API while a disk is full."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from pulpcore.app.models import Artifact
from tests.support.instance import Instance, wait_until
from tests.support.server import Server, serving
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.slow

DISK = 16 << 20
SIZES = (1000, 100_000, DISK - 4_000_000)
"""Below the limits of a buffer and of a body that is read before the view, and above both."""


@contextmanager
def on_small_disk(
    instance: Instance, orm, setting: str
) -> Iterator[tuple[Server, SmallDisk, httpx.Client]]:
    """Run a server with a directory on a disk of its own, and a client of it that is logged in."""
    with small_disk(DISK) as disk:
        environ = {f"PULP_{name}": str(disk.path) for name in setting.split()}
        with serving(instance, **environ) as server, instance.client(server.url) as client:
            yield server, disk, client


def upload(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/pulp/api/v3/artifacts/", files={"file": data})


def files_on(disk: SmallDisk) -> list[Path]:
    """Return the files, without what fills the disk."""
    return [each for each in disk.path.rglob("*") if each.is_file() and each.name != "filler"]


def check_refusal(response: httpx.Response) -> None:
    assert response.status_code == 507, response.text
    assert response.text == "No space is left on a disk of the server."


@pytest.mark.parametrize("setting", ["WORKING_DIRECTORY FILE_UPLOAD_TEMP_DIR", "MEDIA_ROOT"])
def test_upload_to_a_full_disk_returns_507_and_leaves_no_file(instance, orm, setting):
    """The same files can be uploaded once there is space."""
    base = orm.distribution(publication=orm.publication({"a": b"a" * 1000, "b": bytes(300_000)}))
    uploads = [os.urandom(size) for size in SIZES]
    with on_small_disk(instance, orm, setting) as (server, disk, client):
        is_media = setting == "MEDIA_ROOT"
        for data in uploads:
            disk.fill()
            check_refusal(upload(client, data))
            assert files_on(disk) == []
            if not is_media:
                for name, content in {"a": b"a" * 1000, "b": bytes(300_000)}.items():
                    assert httpx.get(f"{server.content_url}{base}/{name}").content == content
            assert client.get("/pulp/api/v3/status/").status_code == 200
            disk.clear()
        check_refusal(upload(client, bytes(2 * DISK)))  # fills the disk itself
        assert files_on(disk) == []
        for data in uploads:
            created = upload(client, data)
            assert created.status_code == 201, created.text
            digest = sha256(data).hexdigest()
            assert created.json()["sha256"] == digest
            artifact = Artifact.objects.get(sha256=digest)
            if is_media:
                stored = disk.path / artifact.file.name
                assert sha256(stored.read_bytes()).hexdigest() == digest
                disk_files = files_on(disk)
                assert stored in disk_files
                stored.unlink()
            artifact.delete()
        assert "MEDIA_ROOT" in server.said()
        wait_until(lambda: files_on(disk) == [])


def test_part_of_a_file_that_a_crash_left_is_replaced(instance, orm):
    """pulpcore would take it for the whole file."""
    data = os.urandom(200_000)
    digest = sha256(data).hexdigest()
    with on_small_disk(instance, orm, "MEDIA_ROOT") as (_, disk, client):
        stored = disk.path / "artifact" / digest[:2] / digest[2:]
        stored.parent.mkdir(parents=True)
        stored.write_bytes(data[:1000])
        os.utime(stored, (0, 0))
        assert upload(client, data).status_code == 201
        assert stored.read_bytes() == data
        Artifact.objects.get(sha256=digest).delete()


def test_file_that_another_process_stores_is_not_touched(instance, orm):
    data = os.urandom(200_000)
    digest = sha256(data).hexdigest()
    with on_small_disk(instance, orm, "MEDIA_ROOT") as (_, disk, client):
        stored = disk.path / "artifact" / digest[:2] / digest[2:]
        stored.parent.mkdir(parents=True)
        with stored.open("wb", buffering=0) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            other.write(data[:1000])
            os.utime(stored, (0, 0))
            assert upload(client, data).status_code == 201
            other.write(data[1000:])
        assert stored.read_bytes() == data
        Artifact.objects.get(sha256=digest).delete()


def test_chunk_of_an_upload_to_a_full_disk_returns_507_and_can_be_repeated(instance, orm):
    data = os.urandom(1_000_000)
    headers = {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}
    with on_small_disk(instance, orm, "MEDIA_ROOT") as (_, disk, client):
        created = client.post("/pulp/api/v3/uploads/", json={"size": len(data)})
        href = created.raise_for_status().json()["pulp_href"]
        disk.fill()
        check_refusal(client.put(href, files={"file": data}, headers=headers))
        assert files_on(disk) == []
        disk.clear()
        assert client.put(href, files={"file": data}, headers=headers).status_code == 200
        assert [each.read_bytes() for each in files_on(disk)] == [data]
        assert client.delete(href).status_code == 204
