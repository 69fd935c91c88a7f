"""Two applications in one process."""

import asyncio
from dataclasses import fields

from pulpcore.content_star.application import Settings, create_application
from pulpcore.content_star.resources import STATE_KEY, Resources
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
