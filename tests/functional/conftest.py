"""The content app in the test process."""

import asyncio
from collections.abc import Iterator

import pytest
from django.conf import settings
from starlette.types import ASGIApp

from pulpcore.content_star.content import Content
from pulpcore.content_star.correlation import CorrelationId
from pulpcore.content_star.db import Door
from pulpcore.content_star.edge import EdgeHeaders
from pulpcore.content_star.errors import Errors


@pytest.fixture(scope="session")
def app(instance) -> Iterator[ASGIApp]:
    """The content app in this process, where a test can change plugins and the size of pages."""
    door = Door(threads=2)
    yield CorrelationId(EdgeHeaders(Errors(Content(door, settings.CONTENT_PATH_PREFIX))))
    asyncio.run(door.close())
