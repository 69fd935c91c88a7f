"""Builds the ASGI app that serves content."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.aiohttp_bridge import internals
from pulpcore.content_star.aiohttp_bridge.application import Overlay, bridge
from pulpcore.content_star.auth.password_checks import password_checks
from pulpcore.content_star.cache.fast_path import FastPath
from pulpcore.content_star.cache.invalidation.listener import listening
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
    """Build the content app: one endpoint for every path, and the process's lifespan.

    `app_types` is what the process that runs it is, and registers as in Pulp's status.
    """
    internals.install()
    leave_tasks_to_workers()
    make_cookies_linear()
    announce()
    executor = DatabaseExecutor(settings.CONTENT_STAR_DATABASE_THREADS)
    # Plugins' handlers may take as long as they like: they keep no file waiting for a thread.
    route_executor = DatabaseExecutor(settings.CONTENT_STAR_DATABASE_THREADS, name="live-db")
    prefix = settings.CONTENT_PATH_PREFIX
    cache = ResponseCache(settings.CONTENT_STAR_CACHE_ENTRIES, settings.CONTENT_STAR_CACHE_BYTES)
    runs_tasks = "api" in app_types
    content = Overlay(Health(Content(executor, prefix, cache), executor, prefix, cache, runs_tasks))
    endpoint = Errors(NormalizePath(Mounts(content, route_executor), prefix))
    logs: list[Observer] = [access_log.AccessLog()] if access_log.is_wanted() else []
    observers = logs.copy()

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
            listening(cache),
            bridge(plugins_for_aiohttp(), content, route_executor),
            isolated_tasks(),
            serialized_schemas(),
        ):
            _freeze()
            yield
        if metrics:
            await metrics.close()
        # Together: each waits for a while where the database hangs.
        await asyncio.gather(heartbeat.stop(), route_executor.close(), executor.close())

    # Not a route: what paths there are is for the database to say, and file names may contain
    # anything, line breaks included, which no route matches.
    # The middleware is around it, as in Starlette: only the lifespan has to ask what it is.
    app = Application(default=CDNHeaders(endpoint), lifespan=lifespan)
    return CorrelationId(Telemetry(FastPath(app, cache, prefix), observers))


def _freeze() -> None:
    """Have the garbage collector stop the process less: for a tenth of a second each time.

    What has been imported by now stays for ever and need not be gone through. What plans keep goes
    without the collector's help, so it can take its time (Python's own last threshold is 10).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


class Application(Router):
    """A router without routes, which requests need not look for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = super().__call__ if scope["type"] == "lifespan" else self.default
        await app(scope, receive, send)
