"""The content app: its middleware, outermost first, and the lifespan of its resources."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from django.conf import settings
from starlette.middleware import Middleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.aiohttp_bridge import internals
from pulpcore.content_star.aiohttp_bridge.application import Overlay, bridge
from pulpcore.content_star.auth.password_checks import password_checks
from pulpcore.content_star.cache.fast_path import FastPath
from pulpcore.content_star.cache.invalidation.listener import cache_invalidation
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.content import Content
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.django_app.cookies import make_cookies_linear
from pulpcore.content_star.django_app.isolation import isolated_tasks, serialized_schemas
from pulpcore.content_star.heartbeat import AppType, Heartbeat
from pulpcore.content_star.middleware import access_log
from pulpcore.content_star.middleware.cdn_headers import CDNHeaders
from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.middleware.errors import Errors
from pulpcore.content_star.middleware.health import Health
from pulpcore.content_star.middleware.metrics import Metrics
from pulpcore.content_star.middleware.normalize_path import NormalizePath
from pulpcore.content_star.plugin_host.discovery import announce, plugins_for_aiohttp
from pulpcore.content_star.plugin_host.mounts import Mounts
from pulpcore.content_star.plugin_host.proxy import proxy_client
from pulpcore.content_star.remote.downloads import downloads
from pulpcore.content_star.remote.pull_through.metadata_cache import metadata
from pulpcore.content_star.remote.pull_through.repository import leave_tasks_to_workers
from pulpcore.content_star.request_info import Observer, Telemetry
from pulpcore.content_star.storage.objects import object_client


def create_application(*app_types: AppType) -> ASGIApp:
    """Return the content app: one endpoint for all paths, in its middleware.

    `app_types` are the apps that the process runs; each gets a heartbeat in Pulp's status.
    """
    internals.install()
    leave_tasks_to_workers()
    make_cookies_linear()
    announce()
    prefix = settings.CONTENT_PATH_PREFIX
    executor = DatabaseExecutor(settings.CONTENT_STAR_DATABASE_THREADS)
    # An executor of their own, since plugins' routes may take long: files do not wait for them.
    route_executor = DatabaseExecutor(settings.CONTENT_STAR_DATABASE_THREADS, name="plugin-db")
    cache = ResponseCache(settings.CONTENT_STAR_CACHE_ENTRIES, settings.CONTENT_STAR_CACHE_BYTES)
    logs: list[Observer] = [access_log.AccessLog()] if access_log.is_wanted() else []
    observers = logs.copy()
    content = Content(executor, prefix, cache)
    health = Health(content, executor, prefix, cache, runs_tasks="api" in app_types)
    overlay = Overlay(health)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        heartbeat = Heartbeat(*app_types)
        await heartbeat.start()
        metrics = Metrics(cache) if settings.OTEL_ENABLED else None
        observers[:] = [*logs, metrics] if metrics else logs
        async with (
            object_client(),
            proxy_client(),
            password_checks(),
            downloads(executor),
            metadata(),
            cache_invalidation(cache),
            bridge(plugins_for_aiohttp(), overlay),
            isolated_tasks(),
            serialized_schemas(),
        ):
            _tune_garbage_collector()
            yield
        if metrics:
            await metrics.close()
        # Concurrently: each waits for its timeout if the database hangs.
        await asyncio.gather(heartbeat.stop(), route_executor.close(), executor.close())

    middleware = [
        Middleware(CorrelationId),
        Middleware(Telemetry, observers=observers),
        Middleware(FastPath, cache=cache, prefix=prefix),
        Middleware(Lifespan, lifespan=lifespan),
        Middleware(CDNHeaders),
        Middleware(Errors),
        Middleware(NormalizePath, prefix=prefix),
        Middleware(Mounts, executor=route_executor),
    ]
    app: ASGIApp = overlay
    for cls, args, kwargs in reversed(middleware):
        app = cls(app, *args, **kwargs)
    return app


class Lifespan(Router):
    """ASGI middleware that runs a lifespan; a router without routes, which requests pass by.

    Content paths are not routes: the database decides which exist, and file names may contain line
    breaks, which no route matches.
    """

    def __init__(
        self, app: ASGIApp, lifespan: Callable[[Any], AbstractAsyncContextManager[None]]
    ) -> None:
        super().__init__(default=app, lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = super().__call__ if scope["type"] == "lifespan" else self.default
        await app(scope, receive, send)


def _tune_garbage_collector() -> None:
    """Make full garbage collections rarer and shorter: each stops the event loop.

    A full collection visited all imported code: it stopped the process for 0.2 s each time and took
    a fifth of the CPU time of uncached requests. `freeze` exempts the objects that exist at the
    start. Cache entries are in no cycles and freed without the collector, so full collections are
    ten times rarer than Python's default: after 100 collections of the second generation, not 10.
    With a full cache, each still takes 0.1 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)
