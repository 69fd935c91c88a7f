"""Two applications in one process."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

import pytest
from django.test import override_settings

from pulpcore.content_star import application
from pulpcore.content_star.application import Settings, create_application
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.database.threads import DatabaseThread
from pulpcore.content_star.resources import STATE_KEY, Resources
from pulpcore.content_star.upstream import AppStatus
from tests.support.asgi import client_of, running

BIG = 3_000_000


def test_applications_in_one_process_share_no_resource(instance, orm):
    async def states() -> list[Resources]:
        first, second = create_application("content"), create_application("content")
        async with running(first) as one, running(second) as two:
            return [app.state[STATE_KEY] for app in (one, two)]

    first, second = asyncio.run(states())
    for field in fields(Resources):
        assert getattr(first, field.name) is not getattr(second, field.name)


def test_application_keeps_its_resources_when_another_one_stops(instance, orm, remote_file):
    """Its downloads, their locks and threads, and its cache of a size of its own."""
    files = [remote_file(BIG) for _ in range(2)]

    async def answers() -> list[bytes]:
        first = create_application("content", settings=Settings(cache_entries=0))
        second = create_application("content", settings=Settings(database_threads=1))
        async with running(second) as two:
            async with running(first) as one, client_of(one) as client:
                bodies = [(await client.get(f"/pulp/content/{files[0].path}")).content]
            async with client_of(two) as client:
                bodies.append((await client.get(f"/pulp/content/{files[1].path}")).content)
                status = (await client.get("/pulp/content/readyz")).text
                assert status.startswith("ok")
        return bodies

    assert asyncio.run(answers()) == [file.data for file in files]


@pytest.mark.parametrize("at", ["start", "end"])
def test_lifespan_closes_all_executors_when_a_part_of_it_fails(instance, orm, monkeypatch, at):
    """And deletes the heartbeat's row, by which Pulp's status says that the app is online."""

    @asynccontextmanager
    async def failing(cache: ResponseCache) -> AsyncIterator[None]:
        if at == "start":
            raise OSError("for this test")
        yield
        raise OSError("for this test")

    monkeypatch.setattr(application, "cache_invalidation", failing)
    rows = set(AppStatus.objects.values_list("pk", flat=True))
    threads = set(threading.enumerate())

    async def run() -> None:
        async with running(create_application("content")) as app, client_of(app) as client:
            assert (await client.get("/pulp/content/readyz")).status_code == 200
            page = await client.get("/pulp/content/", headers={"Accept": "text/html"})
            assert page.status_code == 200

    with pytest.raises((OSError, AssertionError), match="for this test"):
        asyncio.run(run())
    left = set(threading.enumerate()) - threads
    assert [thread.name for thread in left if isinstance(thread, DatabaseThread)] == []
    assert set(AppStatus.objects.values_list("pk", flat=True)) <= rows


@pytest.mark.parametrize("thresholds", [(500, 5, 50), None])
def test_garbage_collector_has_the_thresholds_of_the_setting_until_the_end(instance, thresholds):
    before = gc.get_threshold(), gc.get_freeze_count()

    async def during() -> tuple[tuple[int, ...], int]:
        async with running(create_application("content")):
            return gc.get_threshold(), gc.get_freeze_count()

    with override_settings(CONTENT_STAR_GC_THRESHOLDS=thresholds):
        used, frozen = asyncio.run(during())
    assert used == (thresholds or before[0])
    assert (frozen > before[1]) == (thresholds is not None)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
