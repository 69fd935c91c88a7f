"""Which of the installed plugins are served natively, bridged, passed on or refused, and why.

A plugin's AppConfig says what its content can be served by, in two attributes:

    content_implementations = {"aiohttp", "star"}
    content_star = "pulp_x.app.content_star"

The second names the module in which classes are registered. It is imported when the content app
starts; workers and commands never see it.
"""

import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.app.apps import PulpPluginAppConfig, pulp_plugin_configs
from pulpcore.app.loggers import deprecation_logger
from pulpcore.app.models import Distribution
from pulpcore.content_star import distributions
from pulpcore.content_star.distributions import registry
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.plugin_host.proxy import Proxy, is_origin
from pulpcore.content_star.responses.defaults import DefaultHeadersMiddleware
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

log = logging.getLogger(__name__)

Served = Literal["native", "bridged", "proxied", "refused"]

CORE = "pulpcore.app"

IMPLEMENTATIONS = frozenset({"aiohttp", "star"})

# Hooks of a distribution's model that answer with responses of aiohttp's, as the others do not.
AIOHTTP_HOOKS = ("content_handler", "content_handler_json")

# What plugins that are not ported are, by CONTENT_STAR_LEGACY_PLUGINS.
UNPORTED: dict[str, Served] = {"bridge": "bridged", "proxy": "proxied", "refuse": "refused"}


@dataclass(frozen=True)
class Plugin:
    """How the content of an installed plugin is served."""

    label: str
    """Label of its Django app, such as `file`."""

    app: str
    """Name of its Django app, such as `pulp_file.app`."""

    package: str
    """Name of the Python package."""

    version: str

    served: Served

    why: str
    """For people; says nothing secret."""


@dataclass(frozen=True)
class LegacyRoutes:
    """The routes that a plugin adds to upstream's content app."""

    prefixes: tuple[str, ...] = ()
    """Paths below which its routes are served, each with a slash at both ends."""

    problem: str | None = None
    """Why its routes are not served, or not all of them."""


legacy_routes: dict[str, LegacyRoutes] = {}
"""By the names of plugins' Django apps, such as `pulp_container.app`. The bridge fills it in when
it starts; plugins without a module `content` are not in it."""


@cache
def plugins() -> dict[str, Plugin]:
    """Import what plugins register, once, and return how each is served, by label.

    A module that fails to import is logged, and its plugin goes on without: with its aiohttp
    implementation, if it reports one, else refused.
    Raises `ImproperlyConfigured` for a declaration or a setting that makes no sense, and
    `AlreadyServed` if two plugins claim the same.
    """
    serving_mode()  # a setting that makes no sense shows even where nothing depends on it
    configs = list(pulp_plugin_configs())
    failures = {config.label: _register(config) for config in configs}
    return {config.label: _judge(config, failures[config.label]) for config in configs}


def as_json() -> list[dict[str, object]]:
    """Return how each plugin is served, sorted by label, for programs.

    What is known of its routes for aiohttp is there once they have been imported: `prefixes` that
    are served, and the `problem` that keeps others from it.
    """
    return [_told(plugin) for _, plugin in sorted(plugins().items())]


def _told(plugin: Plugin) -> dict[str, object]:
    module = legacy_routes.get(plugin.app, LegacyRoutes())
    return {**asdict(plugin), "prefixes": list(module.prefixes), "problem": module.problem}


@cache
def announce() -> None:
    """Import what plugins register, and log once what will stop working one day."""
    for plugin in plugins().values():
        if plugin.served == "bridged":
            deprecation_logger.warning(
                "The content of plugin %s is served through a bridge for aiohttp, which will go "
                "some day: %s.",
                plugin.label,
                plugin.why,
            )


def app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that serves `distribution`, which is another one if its plugin is not."""
    plugin = plugins().get(type(distribution)._meta.app_label)
    if plugin and plugin.served in ("refused", "proxied"):
        return FallbackApp
    return distributions.app_for(distribution)


def plugins_for_aiohttp() -> dict[str, ASGIApp | None]:
    """Return which plugins may add routes to upstream's content app, by the names of Django apps.

    None for those that are bridged, else what answers at their routes instead.
    """
    return {
        plugin.app: None if plugin.served == "bridged" else _instead(plugin)
        for plugin in plugins().values()
        if plugin.served != "native"
    }


class FallbackApp(DistributionApp):
    """Answers for the distributions of plugins that are served elsewhere, or not at all."""

    def respond(self) -> ASGIApp:
        return _instead(plugins()[type(self.distribution)._meta.app_label])


class Refused:
    """ASGI application that says that a plugin is not served here. Raises `HTTPException` 501."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plugin = self.plugin
        raise HTTPException(501, f"Plugin '{plugin.label}' is not served here: {plugin.why}.")


def _instead(plugin: Plugin) -> ASGIApp:
    if plugin.served == "proxied":
        return DefaultHeadersMiddleware(Proxy(settings.CONTENT_STAR_LEGACY_URL), SECURITY_HEADERS)
    return Refused(plugin)


def _judge(config: PulpPluginAppConfig, failure: str | None) -> Plugin:
    """Decide how a plugin is served, once all have registered what they serve."""

    def plugin(served: Served, why: str) -> Plugin:
        package, version = config.python_package_name, config.version
        return Plugin(config.label, config.name, package, version, served, why)

    implementations, module = declared(config)
    if module and not failure:
        return plugin("native", f"it reports star, in {module}")
    if failure and "aiohttp" not in implementations:
        return plugin("refused", failure)
    needs = list(_needs_of_bridge(config))
    if not needs:
        return plugin("native", "; but ".join(filter(None, (_plainness(config), failure))))
    reason = failure or f"it reports {' and '.join(sorted(implementations)) or 'nothing'}"
    return plugin(serving_mode(), f"{reason}, and has {', '.join(needs)}{_setting()}")


def declared(config: PulpPluginAppConfig) -> tuple[frozenset[str], str | None]:
    """Return what the AppConfig reports: implementations, and the module if star is one."""
    reported: Any = getattr(config, "content_implementations", ())
    module: Any = getattr(config, "content_star", None)
    who = f"{registry.name_of(type(config))} of plugin '{config.label}'"
    is_set = isinstance(reported, Collection) and not isinstance(reported, str)
    if not (is_set and all(isinstance(each, str) for each in reported)):
        raise ImproperlyConfigured(f"{who}: content_implementations is a set, not {reported!r}.")
    implementations = frozenset(reported)
    if unknown := implementations - IMPLEMENTATIONS:
        raise ImproperlyConfigured(
            f"{who}: content_implementations knows {sorted(IMPLEMENTATIONS)}, not "
            f"{sorted(unknown)}."
        )
    if ("star" in implementations) != bool(module) or not isinstance(module, str | None):
        raise ImproperlyConfigured(
            f"{who}: 'star' in content_implementations and content_star, the name of a module, "
            f"need each other; they are {sorted(implementations)} and {module!r}."
        )
    return implementations, module


def _register(config: PulpPluginAppConfig) -> str | None:
    """Import the module of a plugin; return what went wrong, and leave no half of it behind."""
    _, module = declared(config)
    if module is None:
        return None
    claims, mounted, loaded = registry.registered(), mounts.all_mounted(), set(sys.modules)
    try:
        import_module(module)
    except registry.AlreadyServed as error:
        raise registry.AlreadyServed(f"{error} (Found while importing {module}.)") from error
    except Exception as error:
        registry.restore(claims)
        mounts.restore(mounted)
        # What it has imported of other plugins has been forgotten too: they register it again.
        for name in {declared(each)[1] for each in pulp_plugin_configs()} - loaded:
            sys.modules.pop(name or "", None)
        log.exception("Content of plugin '%s': %s fails to import.", config.label, module)
        # Not the error's text: this is shown to everybody.
        return f"{module} fails to import ({type(error).__name__}; the log says more)"
    return None


def _needs_of_bridge(config: PulpPluginAppConfig) -> Iterator[str]:
    """Name what of a plugin is written for aiohttp."""
    for model in _distributions(config):
        above = registry.registered_model(model)
        for hook in AIOHTTP_HOOKS:
            if getattr(model, hook, None) is not getattr(above, hook, None):
                yield f"{model.__name__}.{hook}"
    # Where upstream looks for routes. Its own module is no plugin's.
    if config.name != CORE and find_spec(f"{config.name}.content"):
        yield f"{config.name}.content"


def _plainness(config: PulpPluginAppConfig) -> str:
    """Say why a plugin that reports no star needs no bridge either."""
    if config.name == CORE:
        return "its distributions are Pulp's own"
    models = list(_distributions(config))
    if not models:
        return "it has no distributions"
    claimed = [model for model in models if registry.registered_model(model) is model]
    if claimed:
        names = sorted({registry.name_of(registry.app_of(model)) for model in claimed})
        return f"its distributions are served by {' and '.join(names)}"
    return "plain publications: its distributions have no code of their own for aiohttp"


def _distributions(config: PulpPluginAppConfig) -> Iterable[type[Distribution]]:
    return (model for model in config.get_models() if issubclass(model, Distribution))


def serving_mode() -> Served:
    """Return what becomes of plugins that are not ported; `ImproperlyConfigured` as `plugins`."""
    chosen = settings.CONTENT_STAR_LEGACY_PLUGINS
    if chosen not in UNPORTED:
        raise ImproperlyConfigured(
            f"CONTENT_STAR_LEGACY_PLUGINS is one of {sorted(UNPORTED)}, not {chosen!r}."
        )
    if chosen == "proxy" and not is_origin(settings.CONTENT_STAR_LEGACY_URL):
        # Without the value: there may be a password in it.
        raise ImproperlyConfigured(
            "CONTENT_STAR_LEGACY_PLUGINS = 'proxy' needs CONTENT_STAR_LEGACY_URL, which is "
            "http://host:port or https://host:port, without user, path or query."
        )
    return UNPORTED[chosen]


def _setting() -> str:
    chosen = settings.CONTENT_STAR_LEGACY_PLUGINS
    return "" if chosen == "bridge" else f"; CONTENT_STAR_LEGACY_PLUGINS is '{chosen}'"
