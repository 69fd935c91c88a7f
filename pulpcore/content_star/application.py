"""Builds the ASGI app that serves content."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings
from starlette.routing import Router

from pulpcore.content_star.access_log import AccessLog
from pulpcore.content_star.bridge.application import Overlay, bridge, bridged_plugins
from pulpcore.content_star.content import Content
from pulpcore.content_star.correlation import CorrelationId
from pulpcore.content_star.db import Door
from pulpcore.content_star.edge import EdgeHeaders
from pulpcore.content_star.errors import Errors
from pulpcore.content_star.exchange import Observe, Observer
from pulpcore.content_star.health import Health
from pulpcore.content_star.heartbeat import AppType, Heartbeat
from pulpcore.content_star.metrics import Metrics
from pulpcore.content_star.mounts import Mounts
from pulpcore.content_star.plugins import announce
from pulpcore.content_star.remote.download import downloads
from pulpcore.content_star.remote.metadata import metadata
from pulpcore.content_star.responses.objects import object_client


def create_application(*app_types: AppType) -> Router:
    """Build the content app: one endpoint for every path, and the process's lifespan.

    `app_types` is what the process that runs it is, and registers as in Pulp's status.
    """
    announce()
    door = Door(settings.CONTENT_STAR_DATABASE_THREADS)
    # Plugins' handlers may take as long as they like: they keep no file waiting for a thread.
    live_door = Door(settings.CONTENT_STAR_DATABASE_THREADS, name="live-db")
    prefix = settings.CONTENT_PATH_PREFIX
    content = Overlay(Health(Content(door, prefix), door, prefix))
    endpoint = Errors(Mounts(content, live_door))
    observers: list[Observer] = [AccessLog()]

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        heartbeat = Heartbeat(*app_types)
        await heartbeat.start()
        metrics = Metrics() if settings.OTEL_ENABLED else None
        observers[1:] = [metrics] if metrics else []
        async with (
            object_client(),
            downloads(door),
            metadata(),
            bridge(bridged_plugins(), content, live_door),
        ):
            yield
        if metrics:
            await metrics.close()
        await heartbeat.stop()
        await live_door.close()
        await door.close()

    # Not a route: what paths there are is for the database to say, and file names may contain
    # anything, line breaks included, which no route matches.
    return Router(
        default=CorrelationId(Observe(EdgeHeaders(endpoint), observers)), lifespan=lifespan
    )
