"""Saving before the response ends: a client that received a whole file finds it saved."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import httpx
import pytest
from django.db import connection, transaction

from tests.functional.test_pull_through import client, folder, mirror, own  # noqa: F401
from tests.support.instance import wait_until
from tests.support.remote_files import RemoteFile

BIG = 3_000_000


@contextmanager
def saving_blocked(file: RemoteFile) -> Iterator[None]:
    """Lock the row of the content artifact, so that saving waits."""
    with transaction.atomic():
        type(file.content_artifact).objects.select_for_update().get(pk=file.content_artifact.pk)
        yield


def wait_for_save() -> None:
    """Wait until the process waits for the row of the content artifact."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
    with connection.cursor() as cursor:
        wait_until(lambda: (cursor.execute(waiting), cursor.fetchone())[1])


def getting(clients: ThreadPoolExecutor, url: str, method: str = "GET", **headers: str) -> Future:
    return clients.submit(partial(httpx.request, method, url, headers=headers))


@pytest.mark.parametrize("unknown", [[], ["size"], ["size", "sha256"]], ids=str)
@pytest.mark.parametrize("size", [0, 1, 5000, BIG])
def test_on_demand_response_ends_after_the_save(instance, remote_file, size, unknown):
    file = remote_file(size)
    file.set(**dict.fromkeys(unknown))
    url = instance.content_url + file.path
    with ThreadPoolExecutor(4) as clients:
        with saving_blocked(file):
            asked = [getting(clients, url) for _ in range(4)]
            wait_for_save()
            assert not any(each.done() for each in asked)
        for each in asked:
            assert each.result().content == file.data
        assert file.artifact, "when the response ends"
    assert file.gets == [1]


def test_range_waits_for_the_save_only_with_the_last_byte(instance, remote_file):
    file = remote_file(BIG)
    url = instance.content_url + file.path
    with ThreadPoolExecutor(4) as clients:
        with saving_blocked(file):
            whole = getting(clients, url)
            wait_for_save()
            last = getting(clients, url, Range="bytes=-1")
            both = getting(clients, url, Range=f"bytes=0-1,{BIG - 1}-")
            middle = getting(clients, url, Range="bytes=5-999999").result()
            head = getting(clients, url, "HEAD").result()
            assert not any(each.done() for each in (whole, last, both))
        assert middle.content == file.data[5:1_000_000]
        assert head.headers["Content-Length"] == str(BIG)
        assert last.result().content == file.data[-1:]
        assert file.artifact
        assert whole.result().content == file.data
        assert both.result().status_code == 206


def test_save_timeout_ends_the_response_and_is_logged(own, remote_file):  # noqa: F811
    """After some seconds the response ends without the save, and the log names the cause."""
    file = remote_file(5000)
    with saving_blocked(file):
        answer = httpx.get(own.content_url + file.path)
        assert answer.content == file.data
        assert f"Saving the content artifact {file.content_artifact.pk} takes more" in own.said()
    file.wait_until_saved()


def test_streamed_response_does_not_wait_for_a_save(own, remote_file):  # noqa: F811
    file = remote_file(5000, policy="streamed")
    with saving_blocked(file):
        answer = httpx.get(own.content_url + file.path)
        assert answer.content == file.data
    assert f"Saving the content artifact {file.content_artifact.pk}" not in own.said()
    assert file.artifact is None


def test_failed_save_ends_the_response_and_is_logged(client, own, mirror):  # noqa: F811
    """The plugin takes the file for content and cannot parse it, as an index page."""
    m = mirror()
    path = m.add("page.broken", 5000)
    assert client.get(path).content == m.data("page.broken")
    assert "The file 'page.broken' could not be saved: ValueError" in own.said()


@pytest.mark.parametrize("size", [1, 5000, BIG])
def test_pull_through_response_ends_after_dispatching_its_task(client, mirror, size):  # noqa: F811
    from pulpcore.app.models import Task

    m = mirror(repository=True)
    for name in ("a.bin", "b.bin", "c.bin"):
        before = Task.objects.count()
        path = m.add(name, size)
        assert client.get(path).content == m.data(name)
        assert m.saved(name), "when the response ends"
        assert Task.objects.count() == before + 1, "when the response ends"
    wait_until(tasks_have_ended)  # before their repository is deleted


def tasks_have_ended() -> bool:
    from pulpcore.app.models import Task

    return not Task.objects.filter(finished_at=None).exists()


def test_pull_through_of_saved_file_dispatches_its_task(client, mirror, orm):  # noqa: F811
    from pulpcore.app.models import Task

    m = mirror()
    path = m.add("a.bin", 5000)
    assert client.get(path).content == m.data("a.bin")
    repository = orm.version({}).repository.cast()
    other = orm.distribution(from_publication=False, remote=m.remote, repository=repository)
    before = Task.objects.count()
    assert client.get(f"{other}/a.bin").content == m.data("a.bin")
    assert Task.objects.count() == before + 1, "when the response ends"
    wait_until(tasks_have_ended)  # before their repository is deleted
