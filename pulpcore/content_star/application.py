"""The content app: its middleware, outermost first, and the lifespan of its resources."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings as django_settings
from starlette.middleware import Middleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.aiohttp_bridge import internals
from pulpcore.content_star.aiohttp_bridge.application import Overlay, bridge
from pulpcore.content_star.auth.basic_auth_cache import PasswordCache
from pulpcore.content_star.auth.password_checks import PasswordChecks
from pulpcore.content_star.cache.fast_path import FastPath
from pulpcore.content_star.cache.invalidation.listener import cache_invalidation
from pulpcore.content_star.cache.stale import StaleResponses
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.content import Content
from pulpcore.content_star.database.connection import set_connection_defaults
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.database.threads import PAGE_THREADS
from pulpcore.content_star.django_app.cookies import make_cookies_linear
from pulpcore.content_star.django_app.isolation import isolated_tasks, serialized_schemas
from pulpcore.content_star.django_app.password_hashing import bound_hashing
from pulpcore.content_star.heartbeat import AppType, Heartbeat
from pulpcore.content_star.memory import return_freed_memory
from pulpcore.content_star.middleware import access_log
from pulpcore.content_star.middleware.cdn_headers import CDNHeaders
from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.middleware.errors import Errors
from pulpcore.content_star.middleware.health import Health
from pulpcore.content_star.middleware.metrics import Metrics
from pulpcore.content_star.middleware.normalize_path import NormalizePath
from pulpcore.content_star.plugin_host.discovery import log_deprecations, plugins_for_aiohttp
from pulpcore.content_star.plugin_host.mounts import Mounts
from pulpcore.content_star.plugin_host.proxy import proxy_client
from pulpcore.content_star.remote.downloads import Downloads
from pulpcore.content_star.remote.lock import ACQUIRE_TIMEOUT, FetchLocks
from pulpcore.content_star.remote.pull_through.metadata_cache import MetadataCache
from pulpcore.content_star.remote.pull_through.repository import leave_tasks_to_workers
from pulpcore.content_star.remote.temporary_file import remove_abandoned
from pulpcore.content_star.request_info import Observer, Telemetry
from pulpcore.content_star.resources import STATE_KEY, Resources
from pulpcore.content_star.responses.disconnect import PendingRequests
from pulpcore.content_star.schema.endpoint import Schema
from pulpcore.content_star.storage.disk import in_thread
from pulpcore.content_star.storage.objects import ObjectClient
from pulpcore.content_star.storage.whole_files import whole_files

log = logging.getLogger(__name__)

# Seconds that a database call of a plugin's route may take: its queries are its own.
ROUTE_TIMEOUT = 60.0


def _setting(name: str) -> Any:
    return field(default_factory=lambda: getattr(django_settings, name))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and timeouts of the resources of one application; most defaults are Django's settings.

    Two applications in one process may differ in these. All others are settings of the process.
    """

    database_threads: int = _setting("CONTENT_STAR_DATABASE_THREADS")
    database_timeout: float = _setting("CONTENT_STAR_DATABASE_TIMEOUT")
    cache_entries: int = _setting("CONTENT_STAR_CACHE_ENTRIES")
    cache_bytes: int = _setting("CONTENT_STAR_CACHE_BYTES")
    stale_if_error: float = _setting("CONTENT_STAR_STALE_IF_ERROR")
    basic_auth_ttl: float = _setting("CONTENT_STAR_BASIC_AUTH_TTL")
    metadata_ttl: float = _setting("CONTENT_STAR_METADATA_TTL")
    metadata_size: int = _setting("CONTENT_STAR_METADATA_SIZE")
    fetch_lock_timeout: float = ACQUIRE_TIMEOUT


def create_application(*app_types: AppType, settings: Settings | None = None) -> ASGIApp:
    """Return the content app: one endpoint for all paths, in its middleware.

    `app_types` are the apps that the process runs; each gets a heartbeat in Pulp's status.
    """
    internals.install()
    leave_tasks_to_workers()
    make_cookies_linear()
    bound_hashing()
    log_deprecations()  # and imports the modules of plugins
    settings = settings or Settings()
    prefix = django_settings.CONTENT_PATH_PREFIX
    set_connection_defaults()
    executor = DatabaseExecutor(settings.database_threads, timeout=settings.database_timeout)
    pages = DatabaseExecutor(
        PAGE_THREADS, "page-db", timeout=settings.database_timeout, fallback=executor
    )
    cache = ResponseCache(settings.cache_entries, settings.cache_bytes)
    stale = StaleResponses(cache, settings.stale_if_error)
    logs: list[Observer] = [access_log.AccessLog()] if access_log.is_enabled() else []
    observers = logs.copy()
    content = Content(executor, prefix, cache, stale, pages)
    health = Health(
        Schema(content, prefix), executor, prefix, cache, stale, runs_tasks="api" in app_types
    )
    overlay = Overlay(health)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        heartbeat = Heartbeat(*app_types)
        metrics = Metrics(cache) if django_settings.OTEL_ENABLED else None
        observers[:] = [*logs, metrics] if metrics else logs
        try:
            await heartbeat.start()
            async with (
                open_resources(executor, settings) as resources,
                cache_invalidation(cache),
                bridge(plugins_for_aiohttp(), overlay),
                isolated_tasks(),
                serialized_schemas(),
                return_freed_memory(),
            ):
                with (
                    whole_files(),
                    tuned_garbage_collector(django_settings.CONTENT_STAR_GC_THRESHOLDS),
                ):
                    yield {STATE_KEY: resources}
        finally:
            # Concurrently: each waits for its timeout if the database hangs.
            closing = [heartbeat.stop(), executor.close(), pages.close()]
            if metrics:
                closing.append(metrics.close())
            for error in await asyncio.gather(*closing, return_exceptions=True):
                if isinstance(error, Exception):
                    log.error("Closing a part of the application failed.", exc_info=error)

    middleware = [
        Middleware(CorrelationId),
        Middleware(Telemetry, observers=observers),
        Middleware(FastPath, cache=cache, prefix=prefix),
        Middleware(Lifespan, lifespan=lifespan),
        Middleware(CDNHeaders),
        Middleware(Errors),
        Middleware(NormalizePath, prefix=prefix),
        Middleware(Mounts),
    ]
    app: ASGIApp = overlay
    for cls, args, kwargs in reversed(middleware):
        app = cls(app, *args, **kwargs)
    return app


@asynccontextmanager
async def open_resources(
    executor: DatabaseExecutor, settings: Settings
) -> AsyncIterator[Resources]:
    """Open the resources of an application, and close them at the end of the block."""
    await in_thread(remove_abandoned, str(django_settings.WORKING_DIRECTORY))
    resources = Resources(
        downloads=Downloads(executor, FetchLocks(settings.fetch_lock_timeout)),
        metadata=MetadataCache(settings.metadata_ttl, settings.metadata_size),
        objects=ObjectClient(),
        password_cache=PasswordCache(settings.basic_auth_ttl),
        password_checks=PasswordChecks(),
        pending_requests=PendingRequests(),
        proxy=proxy_client(),
        route_executor=DatabaseExecutor(settings.database_threads, "plugin-db", ROUTE_TIMEOUT),
    )
    async with AsyncExitStack() as stack:
        # Closed in the opposite order: cached metadata belongs to downloads.
        stack.push_async_callback(resources.route_executor.close)
        stack.push_async_callback(resources.objects.close)
        stack.push_async_callback(resources.proxy.close)
        stack.push_async_callback(resources.password_checks.close)
        stack.push_async_callback(resources.downloads.close)
        stack.push_async_callback(resources.metadata.close)
        yield resources


class Lifespan(Router):
    """ASGI middleware that runs a lifespan; a router without routes, which requests pass by.

    Content paths are not routes: the database decides which exist, and file names may contain line
    breaks, which no route matches.
    """

    def __init__(
        self,
        app: ASGIApp,
        lifespan: Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]],
    ) -> None:
        super().__init__(default=app, lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = super().__call__ if scope["type"] == "lifespan" else self.default
        await app(scope, receive, send)


@contextmanager
def tuned_garbage_collector(thresholds: Sequence[int] | None) -> Iterator[None]:
    """Make full garbage collections rarer and shorter during the block: each stops the event loop.

    A full collection visited all imported code: it stopped the process for 0.2 s each time and took
    a fifth of the CPU time of uncached requests. `freeze` exempts the objects that exist at the
    start. Cache entries are in no cycles and freed without the collector, so full collections can
    be rare: see CONTENT_STAR_GC_THRESHOLDS. With a full cache, each still takes 0.1 s.
    None changes nothing.
    """
    if thresholds is None:
        yield
        return
    earlier = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)
    try:
        yield
    finally:
        gc.set_threshold(*earlier)
        gc.unfreeze()
