"""Upstream's aiohttp application, with what plugins added to it, as a part of the content app."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict

from aiohttp import web
from django.conf import settings
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.app.apps import pulp_plugin_configs
from pulpcore.content_star import plugins
from pulpcore.content_star.bridge.connection import Connection
from pulpcore.content_star.bridge.modules import (
    Module,
    find_modules,
    import_modules,
    kind_of,
    upstream_app,
)
from pulpcore.content_star.bridge.request import make_request
from pulpcore.content_star.bridge.run import run
from pulpcore.content_star.bridge.threads import threads_of
from pulpcore.content_star.db import Door
from pulpcore.content_star.exchange import exchange_of
from pulpcore.content_star.health import STATUS
from pulpcore.content_star.locate import decoded_path
from pulpcore.content_star.mounts import below, mount, unmount

log = logging.getLogger(__name__)

# What plugins added; filled when the process starts, and told in the status of the content app.
modules: list[Module] = []

STATUS["bridge"] = lambda: [asdict(module) for module in modules]


class Bridge:
    """Serves an aiohttp application over ASGI: its routes, middlewares and sub-applications.

    The application has to be started.
    """

    def __init__(self, app: web.Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        decoded_path(scope)  # raises for what cannot be a path
        exchange_of(scope).route = "plugin"
        await run(scope, receive, send, self.app._handle, self.app._client_max_size)

    async def matches(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Tell whether a route of the application takes the request."""
        request = make_request(Connection(scope, receive, send))
        return (await self.app.router.resolve(request)).http_exception is None


class Overlay:
    """ASGI middleware for routes of plugins below the content prefix.

    As upstream, they come before content, and what none of them takes is content.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.bridge: Bridge | None = None
        self.prefixes: tuple[str, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and self.bridge and below(scope, self.prefixes):
            app = self.bridge if await self.bridge.matches(scope, receive, send) else app
        await app(scope, receive, send)


def bridged_plugins() -> list[str]:
    """Return the plugins whose modules are imported, by the names of their Django apps."""
    served = {label: plugin.served for label, plugin in plugins.plugins().items()}
    return [config.name for config in pulp_plugin_configs() if served[config.label] == "bridged"]


@asynccontextmanager
async def bridge(names: Sequence[str], content: Overlay, door: Door) -> AsyncIterator[None]:
    """Serve what plugins add to upstream's content app, from its start to its end.

    `names` are those of their Django apps; their blocking calls come through `door`.
    If starting the aiohttp application fails, that is logged, and nothing of it is served.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(threads_of(door))
        modules[:] = await _serve(find_modules(names), content, stack)
        yield


async def _serve(names: Sequence[str], content: Overlay, stack: AsyncExitStack) -> list[Module]:
    prefix = settings.CONTENT_PATH_PREFIX
    # Not below the prefix itself, but above it.
    reserved = [prefix.rstrip("/"), settings.V3_API_ROOT]
    found = import_modules(names, reserved) if names else []
    prefixes = sorted({each for module in found for each in module.prefixes})
    if not prefixes:
        return found
    app = upstream_app()
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
    except Exception as error:
        log.exception("The aiohttp application of the plugins cannot be started.")
        problem = f"the aiohttp application of all plugins cannot be started: {kind_of(error)}"
        return [Module(module.plugin, problem=problem) for module in found]
    stack.push_async_callback(runner.cleanup)
    bridge = Bridge(app)
    content.bridge = bridge
    content.prefixes = tuple(each for each in prefixes if each.startswith(prefix))
    for each in prefixes:
        if each.startswith(prefix):
            continue
        try:
            mount(each, bridge)
        except ValueError as error:  # a plugin's that is not bridged
            log.error("%s", error)
        else:
            stack.callback(unmount, each)
    return found
