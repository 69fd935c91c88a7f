"""Files that are to be saved: a client that has read all of one finds it saved."""

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
    """Hold the row that refers to the artifact, so that saving waits."""
    with transaction.atomic():
        type(file.content_artifact).objects.select_for_update().get(pk=file.content_artifact.pk)
        yield


def wait_for_save() -> None:
    """Wait until the process is about to refer to the artifact."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
    with connection.cursor() as cursor:
        wait_until(lambda: (cursor.execute(waiting), cursor.fetchone())[1])


def getting(clients: ThreadPoolExecutor, url: str, method: str = "GET", **headers: str) -> Future:
    return clients.submit(
        partial(httpx.request, method, url, headers=headers, trust_env=False, timeout=60)
    )


@pytest.mark.parametrize("unknown", [[], ["size"], ["size", "sha256"]], ids=str)
@pytest.mark.parametrize("size", [0, 1, 5000, BIG])
def test_on_demand_file_ends_when_it_is_saved(instance, remote_file, size, unknown):
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
        assert file.artifact, "at once"
    assert file.gets == [1]


def test_range_waits_for_the_save_only_where_it_has_the_last_byte(instance, remote_file):
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


def test_save_that_takes_long_is_not_waited_for(own, remote_file):  # noqa: F811
    """The client has its file after some seconds, and the log says why."""
    file = remote_file(5000)
    with saving_blocked(file):
        answer = httpx.get(own.content_url + file.path, trust_env=False, timeout=60)
        assert answer.content == file.data
        assert f"Saving the content artifact {file.content_artifact.pk} takes more" in own.said()
    file.wait_until_saved()


def test_streamed_file_waits_for_nothing(own, remote_file):  # noqa: F811
    file = remote_file(5000, policy="streamed")
    with saving_blocked(file):
        answer = httpx.get(own.content_url + file.path, trust_env=False, timeout=60)
        assert answer.content == file.data
    assert f"Saving the content artifact {file.content_artifact.pk}" not in own.said()
    assert file.artifact is None


def test_save_that_fails_ends_the_answer(client, own, mirror):  # noqa: F811
    """What the plugin takes for content and cannot read, such as an index page."""
    m = mirror()
    path = m.add("page.broken", 5000)
    assert client.get(path).content == m.data("page.broken")
    assert "The file 'page.broken' could not be saved: ValueError" in own.said()


@pytest.mark.parametrize("size", [1, 5000, BIG])
def test_pulled_through_file_ends_when_its_repository_was_asked(client, mirror, size):  # noqa: F811
    from pulpcore.app.models import Task

    m = mirror(repository=True)
    for name in ("a.bin", "b.bin", "c.bin"):
        before = Task.objects.count()
        path = m.add(name, size)
        assert client.get(path).content == m.data(name)
        assert m.saved(name), "at once"
        assert Task.objects.count() == before + 1, "at once"
    wait_until(tasks_have_ended)  # before their repository is deleted


def tasks_have_ended() -> bool:
    from pulpcore.app.models import Task

    return not Task.objects.filter(finished_at=None).exists()


def test_known_file_is_added_to_its_repository_before_it_ends(client, mirror, orm):  # noqa: F811
    from pulpcore.app.models import Task

    m = mirror()
    path = m.add("a.bin", 5000)
    assert client.get(path).content == m.data("a.bin")
    repository = orm.version({}).repository.cast()
    other = orm.distribution(from_publication=False, remote=m.remote, repository=repository)
    before = Task.objects.count()
    assert client.get(f"{other}/a.bin").content == m.data("a.bin")
    assert Task.objects.count() == before + 1, "at once"
    wait_until(tasks_have_ended)  # before their repository is deleted
