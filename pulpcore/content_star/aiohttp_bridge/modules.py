"""Import of the plugin modules that add routes to upstream's content app, and their prefixes."""

import logging
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aiohttp import web
from aiohttp.web_urldispatcher import MatchedSubAppResource
from django.conf import settings

from pulpcore.content_star.aiohttp_bridge.caching import disable_upstream_cache
from pulpcore.content_star.aiohttp_bridge.handler import replace_handler_methods
from pulpcore.content_star.aiohttp_bridge.middlewares import replace_upstream_middlewares
from pulpcore.content_star.plugin_host.discovery import LegacyRoutes, legacy_routes

log = logging.getLogger(__name__)

# Operators may route the paths of such a plugin to another server.
UNKNOWN = "so its routes are unknown, and none is served or proxied"


def import_modules(plugins: Iterable[str]) -> None:
    """Import the modules `<plugin>.content`, as upstream does, and fill in `legacy_routes`.

    A failed import is logged, and none of the routes of that plugin is served, including those
    added before the error. Other plugins are not affected.
    """
    legacy_routes.clear()
    for plugin in plugins:
        if _has(f"{plugin}.content"):
            legacy_routes[plugin] = _import(plugin, upstream_app())


def upstream_app() -> web.Application:
    """Return upstream's application without its routes and cache, and with our handler methods."""
    disable_upstream_cache()  # before modules with decorated handlers are imported
    content = import_module("pulpcore.plugin.content")
    if not getattr(content.Handler, "content_star", False):
        replace_handler_methods(content.Handler)
        replace_upstream_middlewares(content.app)
        content.Handler.content_star = True
    return content.app


def prefix_of(resource: Any) -> str:
    """Return the static path prefix of all URLs of `resource`, with a slash at both ends.

    A path without variables is its own prefix; that of a resource matched by host is the root.
    """
    if isinstance(resource, MatchedSubAppResource):
        return "/"
    static, brace, _ = resource.canonical.partition("{")
    if brace:
        static = static.rpartition("/")[0]
    return static if static.endswith("/") else f"{static}/"


def kind_of(error: Exception) -> str:
    """Return the type of an error, without its text, which may have secrets, for public output."""
    return f"{type(error).__name__}; the log has the traceback"


def _import(plugin: str, app: web.Application) -> LegacyRoutes:
    known = set(app.router.resources())
    try:
        import_module(f"{plugin}.content")
    except Exception as error:
        broken = f"{plugin}.content cannot be imported, {UNKNOWN}"
        log.exception("The plugin %s is not served in full: %s.", plugin, broken)
        return LegacyRoutes(problem=f"{broken}: {kind_of(error)}")
    added = [each for each in app.router.resources() if each not in known]
    prefixes = {prefix_of(each) for each in added}
    refused = sorted(filter(_covers_pulp, prefixes))
    problem = None
    if refused:
        problem = f"routes at {', '.join(refused)} overlap paths of Pulp"
        log.error("The plugin %s is not served in full: %s.", plugin, problem)
    return LegacyRoutes(tuple(sorted(prefixes - set(refused))), problem)


def _covers_pulp(prefix: str) -> bool:
    """Return whether content or the API is at or below `prefix`, or `prefix` is the root."""
    # Routes may be below the content prefix, but not cover it.
    others = (settings.CONTENT_PATH_PREFIX.rstrip("/"), f"{settings.API_ROOT}api/")
    return prefix == "/" or any(each.startswith(prefix) for each in others)


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
