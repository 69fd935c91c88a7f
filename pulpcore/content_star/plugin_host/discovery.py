"""Discovery of plugins: the serving mode of each (native, bridged, proxied, refused), and why.

A plugin's AppConfig declares its implementations of content in two attributes:

    content_implementations = {"aiohttp", "star"}
    content_star = "pulp_x.app.content_star"

The second names the module that registers the plugin's classes. It is imported when the content
app starts; workers and commands do not import it.
"""

import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, TypedDict

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star import distributions
from pulpcore.content_star.distributions import registry
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.plugin_host.proxy import Proxy, is_origin
from pulpcore.content_star.responses.defaults import DefaultHeadersMiddleware
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.content_star.upstream import deprecation_logger
from pulpcore.plugin import PulpPluginAppConfig
from pulpcore.plugin.apps import pulp_plugin_configs
from pulpcore.plugin.models import Distribution

log = logging.getLogger(__name__)

ServingMode = Literal["native", "bridged", "proxied", "refused"]

CORE = "pulpcore.app"

IMPLEMENTATIONS = frozenset({"aiohttp", "star"})

# First release without the bridge and the proxy to pulpcore-content.
BRIDGE_ENDS_WITH = "2.0"

# Hooks of a distribution's model that return aiohttp responses.
AIOHTTP_HOOKS = ("content_handler", "content_handler_json")

# Serving mode of legacy plugins, by CONTENT_STAR_LEGACY_PLUGINS.
LEGACY_MODES: dict[str, ServingMode] = {
    "bridge": "bridged",
    "proxy": "proxied",
    "refuse": "refused",
}


@dataclass(frozen=True)
class Plugin:
    """An installed plugin and its serving mode."""

    label: str
    """Label of its Django app, such as `file`."""

    app: str
    """Name of its Django app, such as `pulp_file.app`."""

    package: str
    """Name of the Python package."""

    version: str

    served: ServingMode

    why: str
    """Reason for the mode, for operators; public."""

    reports: tuple[str, ...] = ()
    """Implementations that its AppConfig declares, sorted."""

    @property
    def ends_with(self) -> str | None:
        """Release of this package that no longer serves the plugin so (docs/phases.md), or None."""
        return BRIDGE_ENDS_WITH if self.served in ("bridged", "proxied") else None


class PluginStatus(TypedDict):
    """A plugin as JSON, with the prefixes of its routes for aiohttp, and their problem."""

    label: str
    app: str
    package: str
    version: str
    served: ServingMode
    why: str
    reports: list[str]
    ends_with: str | None
    prefixes: list[str]
    problem: str | None


@dataclass(frozen=True)
class LegacyRoutes:
    """Routes that a legacy plugin adds to upstream's content app."""

    prefixes: tuple[str, ...] = ()
    """Path prefixes of its routes that are served, each with a slash at both ends."""

    problem: str | None = None
    """Why some or all of its routes are not served."""


legacy_routes: dict[str, LegacyRoutes] = {}
"""By name of the Django app, such as `pulp_container.app`. Filled in at the start of the bridge;
plugins without a module `content` are missing."""


@cache
def plugins() -> dict[str, Plugin]:
    """Import the modules of all plugins, once, and return the plugins by label.

    A failed import is logged, and the plugin is served by its aiohttp implementation if it declares
    one, else refused.
    Raises `ImproperlyConfigured` for an invalid declaration or setting, and `AlreadyServed` if two
    plugins register the same model or prefix.
    """
    serving_mode()  # validates the setting even without legacy plugins
    configs = list(pulp_plugin_configs())
    failures = {config.label: _register(config) for config in configs}
    return {config.label: _plugin(config, failures[config.label]) for config in configs}


def as_json() -> list[PluginStatus]:
    """Return the plugins as JSON values, sorted by label.

    `prefixes` and `problem` of their aiohttp routes are set once those have been imported.
    """
    return [_plugin_json(plugin) for _, plugin in sorted(plugins().items())]


def _plugin_json(plugin: Plugin) -> PluginStatus:
    module = legacy_routes.get(plugin.app, LegacyRoutes())
    return {
        "label": plugin.label,
        "app": plugin.app,
        "package": plugin.package,
        "version": plugin.version,
        "served": plugin.served,
        "why": plugin.why,
        "reports": list(plugin.reports),
        "ends_with": plugin.ends_with,
        "prefixes": list(module.prefixes),
        "problem": module.problem,
    }


@cache
def log_deprecations() -> None:
    """Log a deprecation warning for each bridged plugin once; import the modules of all."""
    for plugin in plugins().values():
        if plugin.served == "bridged":
            deprecation_logger.warning(
                "The content of plugin %s is served by the aiohttp bridge, which is deprecated and "
                "goes with pulp-content-star %s: %s. Update the plugin to a version with an "
                "implementation for content-star.",
                plugin.label,
                BRIDGE_ENDS_WITH,
                plugin.why,
            )


def app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that serves `distribution`: `FallbackApp` if proxied or refused."""
    plugin = plugins().get(type(distribution)._meta.app_label)
    if plugin and plugin.served in ("refused", "proxied"):
        return FallbackApp
    return distributions.registered_app_for(distribution)


def plugins_for_aiohttp() -> dict[str, ASGIApp | None]:
    """Return the legacy plugins, whose aiohttp routes are imported, by name of the Django app.

    The value is None for a bridged plugin, else the fallback app for its routes.
    """
    return {
        plugin.app: None if plugin.served == "bridged" else _fallback_app(plugin)
        for plugin in plugins().values()
        if plugin.served != "native"
    }


class FallbackApp(DistributionApp):
    """Serves distributions of proxied and refused plugins."""

    def respond(self) -> ASGIApp:
        return _fallback_app(plugins()[type(self.distribution)._meta.app_label])


class Refused:
    """ASGI application that raises `HTTPException` 501 for a refused plugin."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plugin = self.plugin
        raise HTTPException(501, f"Plugin '{plugin.label}' is not served here: {plugin.why}.")


def _fallback_app(plugin: Plugin) -> ASGIApp:
    if plugin.served == "proxied":
        return DefaultHeadersMiddleware(Proxy(settings.CONTENT_STAR_LEGACY_URL), SECURITY_HEADERS)
    return Refused(plugin)


def _plugin(config: PulpPluginAppConfig, failure: str | None) -> Plugin:
    """Return a plugin with its serving mode, after the modules of all have been imported."""

    implementations, module = declared(config)
    reports = tuple(sorted(implementations))

    def plugin(served: ServingMode, why: str) -> Plugin:
        package, version = config.python_package_name, config.version
        return Plugin(config.label, config.name, package, version, served, why, reports)

    if module and not failure:
        return plugin("native", f"it reports star, in {module}")
    if failure and "aiohttp" not in implementations:
        return plugin("refused", failure)
    needs = list(_aiohttp_code(config))
    if not needs:
        return plugin("native", "; but ".join(filter(None, (_native_reason(config), failure))))
    reason = failure or f"it reports {' and '.join(sorted(implementations)) or 'nothing'}"
    return plugin(serving_mode(), f"{reason}, and has {', '.join(needs)}{_mode_reason()}")


def declared(config: PulpPluginAppConfig) -> tuple[frozenset[str], str | None]:
    """Return the declared implementations, and the module to import if star is one of them.

    Raises `ImproperlyConfigured`.
    """
    reported: Any = getattr(config, "content_implementations", ())
    module: Any = getattr(config, "content_star", None)
    owner = f"{registry.name_of(type(config))} of plugin '{config.label}'"
    is_set = isinstance(reported, Collection) and not isinstance(reported, str)
    if not (is_set and all(isinstance(each, str) for each in reported)):
        raise ImproperlyConfigured(
            f"{owner}: content_implementations must be a set of strings, not {reported!r}."
        )
    implementations = frozenset(reported)
    if unknown := implementations - IMPLEMENTATIONS:
        raise ImproperlyConfigured(
            f"{owner}: content_implementations may have {sorted(IMPLEMENTATIONS)}, not "
            f"{sorted(unknown)}."
        )
    if ("star" in implementations) != bool(module) or not isinstance(module, str | None):
        raise ImproperlyConfigured(
            f"{owner}: 'star' in content_implementations requires content_star, the name of a "
            f"module, and vice versa; they are {sorted(implementations)} and {module!r}."
        )
    return implementations, module


def _register(config: PulpPluginAppConfig) -> str | None:
    """Import the module of a plugin; on failure undo its registrations and return the reason."""
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
        # Modules of other plugins that it imported have to be imported again to register.
        for name in {declared(each)[1] for each in pulp_plugin_configs()} - loaded:
            sys.modules.pop(name or "", None)
        log.exception("Module %s of plugin '%s' fails to import.", module, config.label)
        # Without the text of the error: the reason is public.
        return f"{module} fails to import ({type(error).__name__}; the log has the traceback)"
    return None


def _aiohttp_code(config: PulpPluginAppConfig) -> Iterator[str]:
    """Yield the names of a plugin's hooks and modules that need aiohttp."""
    for model in _distributions(config):
        above = registry.registered_model(model)
        for hook in AIOHTTP_HOOKS:
            if getattr(model, hook, None) is not getattr(above, hook, None):
                yield f"{model.__name__}.{hook}"
    # Upstream imports routes from this module of each plugin; its own has none.
    if config.name != CORE and find_spec(f"{config.name}.content"):
        yield f"{config.name}.content"


def _native_reason(config: PulpPluginAppConfig) -> str:
    """Return why a plugin that does not declare star is native anyway."""
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


def serving_mode() -> ServingMode:
    """Return the serving mode of legacy plugins. Raises `ImproperlyConfigured`."""
    mode = settings.CONTENT_STAR_LEGACY_PLUGINS
    if mode not in LEGACY_MODES:
        raise ImproperlyConfigured(
            f"CONTENT_STAR_LEGACY_PLUGINS must be one of {sorted(LEGACY_MODES)}, not {mode!r}."
        )
    if mode == "proxy" and not is_origin(settings.CONTENT_STAR_LEGACY_URL):
        # Without the value, which may contain a password.
        raise ImproperlyConfigured(
            "CONTENT_STAR_LEGACY_PLUGINS = 'proxy' requires CONTENT_STAR_LEGACY_URL: "
            "http://host:port or https://host:port, without user, path or query."
        )
    return LEGACY_MODES[mode]


def _mode_reason() -> str:
    mode = settings.CONTENT_STAR_LEGACY_PLUGINS
    return "" if mode == "bridge" else f"; CONTENT_STAR_LEGACY_PLUGINS is '{mode}'"
