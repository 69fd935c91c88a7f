"""The bridged routes of legacy plugins, for the OpenAPI document."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pulpcore.content_star.aiohttp_bridge.modules import upstream_app
from pulpcore.content_star.plugin_host.discovery import legacy_routes, plugins


class BridgedRoute(NamedTuple):
    """A route that a legacy plugin added to upstream's content app."""

    plugin: str
    """Label of its Django app."""

    path: str
    """Path template, such as `/pulp/example/{name}`."""

    method: str
    """Upper case, or `*` for all."""

    handler: Callable[..., Any]


def bridged_routes() -> Iterator[BridgedRoute]:
    """Yield the routes that the bridge serves; none before it has started."""
    for plugin in plugins().values():
        prefixes = legacy_routes[plugin.app].prefixes if plugin.app in legacy_routes else ()
        if plugin.served != "bridged" or not prefixes:
            continue
        for route in upstream_app().router.routes():
            path = route.resource.canonical if route.resource else ""
            if f"{path}/".startswith(prefixes):
                yield BridgedRoute(plugin.label, path, route.method, route.handler)
