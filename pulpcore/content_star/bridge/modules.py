"""The modules with which plugins join upstream's content app, and the prefixes they serve there."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aiohttp import web
from aiohttp.web_urldispatcher import MatchedSubAppResource

from pulpcore.content_star.bridge.caching import adopt_cache
from pulpcore.content_star.bridge.handler import adopt_handler
from pulpcore.content_star.bridge.middlewares import adopt_middlewares

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Module:
    """What a plugin adds to upstream's content app."""

    plugin: str
    """The name of its Django app, such as `pulp_container.app`."""

    prefixes: tuple[str, ...] = ()
    """Paths below which it has routes, each with a slash at both ends."""

    problem: str | None = None
    """Why what it adds is not served, or not all of it."""


def find_modules(plugins: Iterable[str]) -> list[str]:
    """Return which of `plugins`, by the names of their Django apps, have a module `content`."""
    return [plugin for plugin in plugins if _has(f"{plugin}.content")]


def import_modules(plugins: Iterable[str], reserved: Sequence[str]) -> list[Module]:
    """Import the modules `<plugin>.content`, as upstream does, and tell what they added.

    `reserved` are prefixes of others. A module that cannot be imported is logged, and only its
    plugin has to do without: routes that it added before it broke are not served.
    """
    app = upstream_app()
    return [_import(plugin, app, reserved) for plugin in plugins]


def upstream_app() -> web.Application:
    """Return upstream's application, without its routes, and with what we replace."""
    adopt_cache()  # before anything is decorated
    content = import_module("pulpcore.content")
    handler = import_module("pulpcore.content.handler")
    if not getattr(handler.Handler, "content_star", False):
        adopt_handler(handler.Handler)
        adopt_middlewares(content.app)
        handler.Handler.content_star = True
    return content.app


def prefix_of(resource: Any) -> str:
    """Return the path below which `resource` has all that it matches, a slash at both ends.

    A path without variables is its own prefix. What depends on the host has the root.
    """
    if isinstance(resource, MatchedSubAppResource):
        return "/"
    static, brace, _ = resource.canonical.partition("{")
    if brace:
        static = static.rpartition("/")[0]
    return static if static.endswith("/") else f"{static}/"


def kind_of(error: Exception) -> str:
    """Tell what kind of error it is: its text, which may have secrets, is for the log alone."""
    return f"{type(error).__name__}; the log says more"


def _import(plugin: str, app: web.Application, reserved: Sequence[str]) -> Module:
    known = set(app.router.resources())
    try:
        import_module(f"{plugin}.content")
    except Exception as error:
        log.exception("The content module of the plugin %s cannot be imported.", plugin)
        return Module(plugin, problem=f"{plugin}.content cannot be imported: {kind_of(error)}")
    added = [each for each in app.router.resources() if each not in known]
    prefixes = {prefix_of(each) for each in added}
    refused = sorted(prefix for prefix in prefixes if _covers(prefix, reserved))
    problem = None
    if refused:
        problem = f"routes at {', '.join(refused)} would cover what others serve"
        log.error("The plugin %s is not served in full: %s.", plugin, problem)
    return Module(plugin, tuple(sorted(prefixes - set(refused))), problem)


def _covers(prefix: str, reserved: Sequence[str]) -> bool:
    """Tell whether something reserved is at or below `prefix`, or `prefix` is no path at all."""
    return prefix == "/" or any(each.startswith(prefix) for each in reserved)


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
