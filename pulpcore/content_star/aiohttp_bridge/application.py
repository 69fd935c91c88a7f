"""Upstream's aiohttp application with the routes of plugins, mounted in the content app."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from aiohttp import web
from django.conf import settings
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.aiohttp_bridge.connection import Connection
from pulpcore.content_star.aiohttp_bridge.modules import (
    import_modules,
    kind_of,
    upstream_app,
)
from pulpcore.content_star.aiohttp_bridge.request import make_request
from pulpcore.content_star.aiohttp_bridge.run import run
from pulpcore.content_star.plugin_host.discovery import legacy_routes
from pulpcore.content_star.plugin_host.mounts import below, mount_app, unmount_app
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.paths import decoded_path

log = logging.getLogger(__name__)


class Bridge:
    """Serves an aiohttp application over ASGI: its routes, middlewares and sub-applications.

    The aiohttp application must have been started.
    """

    def __init__(self, app: web.Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        decoded_path(scope)  # raises HTTPException for an invalid path
        request_info(scope).route = "aiohttp_route"
        await run(scope, receive, send, self.app._handle, self.app._client_max_size)

    async def matches(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Return whether a route of the application matches the request."""
        request = make_request(Connection(scope, receive, send))
        return (await self.app.router.resolve(request)).http_exception is None


class Overlay:
    """ASGI middleware for routes of plugins below the content prefix.

    As in upstream, they take precedence over content.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.bridge: Bridge | None = None
        self.apps: dict[str, ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = below(scope, self.apps) if scope["type"] == "http" and self.bridge else None
        matches = prefix and self.bridge and await self.bridge.matches(scope, receive, send)
        await (self.apps[prefix] if prefix and matches else self.app)(scope, receive, send)


@asynccontextmanager
async def bridge(plugins: Mapping[str, ASGIApp | None], content: Overlay) -> AsyncIterator[None]:
    """Serve the aiohttp routes of `plugins` during the block.

    The keys are names of Django apps; a value is the fallback app for the routes of a plugin, None
    if they are bridged.

    If the aiohttp application fails to start, the error is logged and nothing is bridged:
    `legacy_routes` has the routes that are served, and the reason why others are not.
    """
    async with AsyncExitStack() as stack:
        import_modules(plugins)
        await _serve(plugins, content, stack)
        yield


async def _serve(
    plugins: Mapping[str, ASGIApp | None], content: Overlay, stack: AsyncExitStack
) -> None:
    with_routes = [name for name, module in legacy_routes.items() if module.prefixes]
    if not with_routes:
        return
    bridge = content.bridge = Bridge(upstream_app())
    bridged = [name for name in with_routes if plugins[name] is None]
    if bridged and (problem := await _start(bridge.app, stack)):
        for name in bridged:
            legacy_routes[name] = replace(legacy_routes[name], prefixes=(), problem=problem)
    for name in with_routes:
        _mount(name, plugins[name] or bridge, content, stack)


async def _start(app: web.Application, stack: AsyncExitStack) -> str | None:
    """Start the application, until `stack` is closed; return the reason if that fails."""
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
    except Exception as error:
        log.exception(
            "The aiohttp application of the plugins cannot be started; no plugin is bridged."
        )
        return f"the aiohttp application of all plugins cannot be started: {kind_of(error)}"
    stack.push_async_callback(runner.cleanup)
    return None


def _mount(name: str, app: ASGIApp, content: Overlay, stack: AsyncExitStack) -> None:
    """Mount `app` at the prefixes of a plugin, and log those that are taken."""
    module = legacy_routes[name]
    taken = []
    for prefix in module.prefixes:
        if prefix.startswith(settings.CONTENT_PATH_PREFIX):
            content.apps[prefix] = app
            continue
        try:
            mount_app(prefix, app)
        except ValueError as error:
            log.error("The plugin %s is not served in full: %s", name, error)
            taken.append(prefix)
        else:
            stack.callback(unmount_app, prefix)
    if taken:
        problem = "; ".join(filter(None, [module.problem, f"others serve {', '.join(taken)}"]))
        served = tuple(prefix for prefix in module.prefixes if prefix not in taken)
        legacy_routes[name] = replace(module, prefixes=served, problem=problem)
