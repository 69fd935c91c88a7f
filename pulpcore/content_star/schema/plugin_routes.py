"""Path items of plugins: routes of classes, `content_handler`, mounts, and routes of the bridge.

They are made from Starlette's routes, as `starlette.schemas` does, from docstrings and annotations
of the handlers, and from `openapi` of `Route`.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from inspect import getdoc, isclass, unwrap
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

from django.apps import apps
from django.conf import settings
from starlette.convertors import Convertor, FloatConvertor, IntegerConvertor, UUIDConvertor
from starlette.routing import BaseRoute, Host, Mount, Route, compile_path

from pulpcore.content_star.aiohttp_bridge.routes import BridgedRoute, bridged_routes
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.plugin_hooks import HookedApp
from pulpcore.content_star.distributions.registry import app_of, registered
from pulpcore.content_star.plugin_host.context import MountedRoutes
from pulpcore.content_star.plugin_host.mounts import all_mounted
from pulpcore.content_star.schema.operations import content_root, domain_parameters
from pulpcore.content_star.schema.responses import reference
from pulpcore.content_star.schema.security import authentication_names, requirements
from pulpcore.content_star.schema.types import JSON, json_schema
from pulpcore.content_star.schema.validation import PARAMETER, validated_paths
from pulpcore.plugin.apps import pulp_plugin_configs
from pulpcore.plugin.models import Distribution

log = logging.getLogger(__name__)

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")

# Characters of the reason in a line of the log.
MAX_REASON = 500

# Characters of paths (RFC 3986), and of parameters, that are not percent-encoded.
PATH_CHARACTERS = "/{}!$&'()*+,;=:@"

_TYPES: dict[type, JSON] = {
    IntegerConvertor: {"type": "integer", "minimum": 0},
    FloatConvertor: {"type": "number", "minimum": 0},
    UUIDConvertor: {"type": "string", "format": "uuid"},
}


class Source(NamedTuple):
    """Routes of a plugin at one place."""

    plugin: str
    """Label of its Django app."""

    root: str
    """Path template that the paths of the routes are appended to."""

    parameters: Sequence[JSON]
    """Parameters of that template."""

    is_guarded: bool
    """Whether content guards are asked."""

    routes: Sequence[BaseRoute]


def plugin_paths(components: JSON) -> dict[str, JSON]:
    """Return the path items of all plugins' routes, which may refer to `components`.

    A plugin whose routes cannot be described, or would make the document invalid, is logged and
    left out.
    """
    sources: dict[str, list[Source]] = defaultdict(list)
    failures: dict[str, Exception] = {}
    for source in _sources(failures):
        sources[source.plugin].append(source)
    bridged: dict[str, list[BridgedRoute]] = defaultdict(list)
    for route in bridged_routes():
        bridged[route.plugin].append(route)
    paths: dict[str, JSON] = {}
    for plugin in sorted({*sources, *bridged} - failures.keys()):
        try:
            made = _path_items(sources[plugin], bridged[plugin], components["securitySchemes"])
            items = validated_paths(made, components)
        except Exception as error:
            failures[plugin] = error
            continue
        for path, item in items.items():
            paths[path] = item | paths.get(path, {})
    for plugin, failure in failures.items():
        log.error(
            "The OpenAPI document has no routes of plugin '%s': %s. Correct `openapi` or the "
            "annotations of its routes.",
            plugin,
            _reason(failure),
        )
    return paths


def _reason(error: Exception) -> str:
    """Return the beginning of an error's message: the rest quotes the document."""
    try:
        return str(error).partition("\n")[0][:MAX_REASON] or type(error).__name__
    except Exception:  # an exception class of a plugin
        return type(error).__name__


def _sources(failures: dict[str, Exception]) -> Iterator[Source]:
    """Yield the routes of classes, of `content_handler` and of mounts.

    An error is added to `failures`, by plugin: what a plugin has may be anything, such as a
    descriptor that raises.
    """
    makers: list[tuple[str, Callable[[], Source | None]]] = []
    for (model, _), app in registered().items():
        makers.append((model._meta.app_label, partial(_of_class, model, app)))
    for model in apps.get_models():
        if issubclass(model, Distribution) and model._meta.app_label != "core":
            # Pulpcore's own have files, as all content.
            makers.append((model._meta.app_label, partial(_of_content_handler, model)))
    for prefix, mounted in all_mounted().items():
        if isinstance(mounted, MountedRoutes):
            makers.append((prefix, partial(_of_mount, prefix, mounted)))
    for name, make in makers:
        try:
            source = make()
        except Exception as error:
            failures[name] = error
            continue
        if source is not None:
            yield source


def _of_class(model: type[Distribution], app: type[DistributionApp]) -> Source | None:
    """Return the routes of a registered class, or None without some."""
    if not app.routes:
        return None
    return _of_distributions(_label(app.__module__), model, app.routes)


def _of_content_handler(model: type[Distribution]) -> Source | None:
    """Return a route for the `content_handler` of a type of distribution, if it has its own.

    It may answer any path of the distribution, with any response.
    """
    handler = model.content_handler
    if handler is Distribution.content_handler or not _calls_hook(app_of(model)):
        return None
    route = Route("/{path:path}", handler, methods=["GET"])
    return _of_distributions(model._meta.app_label, model, [route])


def _calls_hook(app: type[DistributionApp]) -> bool:
    """Return whether a class calls the model's `content_handler`, which `find_content` replaces."""
    return issubclass(app, HookedApp) and app.find_content is DistributionApp.find_content


def _of_distributions(
    plugin: str, model: type[Distribution], routes: Sequence[BaseRoute]
) -> Source:
    """Return routes below the base paths of all distributions of a type."""
    kind = model.get_pulp_type()
    # As in the REST API, a parameter of its own: types may have the same routes.
    name = f"{kind.replace('.', '_').replace('-', '_')}_base_path"
    base_path = {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"Base path of a distribution of type {kind}.",
        "schema": {"type": "string", "minLength": 1},
    }
    root = f"{content_root()}{{{name}}}"
    return Source(plugin, root, [*domain_parameters(), base_path], True, routes)


def _of_mount(prefix: str, app: MountedRoutes) -> Source:
    """Return the routes at a prefix of a plugin, which no content guard protects."""
    routes = app.router.routes
    first = next((route.endpoint for _, route in _leaves(routes)), None)
    root = f"{prefix}{{pulp_domain}}" if settings.DOMAIN_ENABLED else prefix.rstrip("/")
    label = _label(getattr(_unpartial(first), "__module__", None) or "")
    return Source(label, root, domain_parameters(), False, routes)


def _label(module: str) -> str:
    """Return the label of the plugin that a module belongs to, or the name of its package."""
    package = module.partition(".")[0]
    labels = {app.name.partition(".")[0]: app.label for app in pulp_plugin_configs()}
    return labels.get(package, package)


def _path_items(
    sources: Iterable[Source], bridged: Iterable[BridgedRoute], schemes: Collection[str]
) -> dict[str, JSON]:
    """Return the path items of a plugin's routes; `schemes` are names of security schemes."""
    items: dict[str, JSON] = {}
    unguarded = authentication_names(schemes)
    for source in sources:
        for path, route in _leaves(source.routes):
            _, template, convertors = compile_path(path)
            template = quote(source.root + template, safe=PATH_CHARACTERS)
            found = [_path_parameter(name, convertors[name]) for name in convertors]
            item = items.setdefault(template, {"parameters": [*source.parameters, *found]})
            for method, handler in _handlers(route):
                operation = _operation(source.plugin, method, template, handler)
                names = schemes if source.is_guarded else unguarded
                operation["security"] = requirements(names)
                operation |= getattr(route, "openapi", None) or {}
                operation["responses"] = {**operation["responses"], "default": reference("Failure")}
                item.setdefault(method, operation)  # the first route that matches answers
    for each in bridged:
        names = PARAMETER.findall(each.path)
        item = items.setdefault(
            each.path, {"parameters": [_path_parameter(name, None) for name in names]}
        )
        for method in METHODS:
            if method != "head" and each.method in ("*", method.upper()):
                operation = _operation(each.plugin, method, each.path, each.handler)
                operation["security"] = requirements(unguarded)
                operation["responses"]["default"] = {"description": "Another response."}
                item.setdefault(method, operation)
    return {path: item for path, item in items.items() if item.keys() - {"parameters"}}


def _leaves(routes: Iterable[BaseRoute], above: str = "") -> Iterator[tuple[str, Route]]:
    """Yield the routes with their paths, also those of mounts, that are to be described."""
    for route in routes:
        match route:
            case Mount():
                yield from _leaves(route.routes, above + route.path)
            case Host():
                yield from _leaves(route.routes, above)
            case Route() if route.include_in_schema:
                yield above + route.path, route


def _handlers(route: Route) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the methods of a route, in lower case, and their functions.

    HEAD is a part of GET, and described where it is alone.
    """
    endpoint = route.endpoint
    for method in METHODS:
        handler = getattr(endpoint, method, None) if isclass(endpoint) else endpoint
        if handler is None or (route.methods and method.upper() not in route.methods):
            continue
        if method != "head" or (route.methods and "GET" not in route.methods):
            yield method, handler


def _operation(plugin: str, method: str, path: str, handler: Callable[..., Any]) -> JSON:
    """Return the operation of a handler, from its docstring and the type that it returns."""
    name = re.sub(r"\W+", "_", unquote(path).removeprefix(settings.CONTENT_PATH_PREFIX)).strip("_")
    summary, _, description = (getdoc(_function(handler)) or "").partition("\n\n")
    operation: JSON = {"operationId": f"{method}_{plugin}_{name}", "tags": [plugin]}
    if summary:
        operation["summary"] = " ".join(summary.split())
    if description:
        operation["description"] = description
    response = {"description": "Success.", "content": _content(_function(handler))}
    return operation | {"responses": {"200": response}}


def _content(handler: Callable[..., Any]) -> JSON:
    """Return the content of the response by the type that `handler` is annotated to return.

    `Annotated[JSONResponse, T]` is JSON of the type T.
    """
    returned = _returned(handler)
    schema: JSON = {}
    if get_origin(returned) is Annotated:
        returned, hint, *_ = get_args(returned)
        schema = json_schema(hint)
    media_type = getattr(returned, "media_type", None)
    return {media_type if isinstance(media_type, str) else "*/*": {"schema": schema}}


def _returned(handler: Callable[..., Any]) -> Any:
    """Return the type that a function is annotated to return, None without one that exists."""
    hints = {"return": getattr(handler, "__annotations__", {}).get("return")}
    names = getattr(handler, "__globals__", {})
    try:
        found = get_type_hints(SimpleNamespace(__annotations__=hints), names, include_extras=True)
    except Exception:  # imported for type checkers only, or no type but words
        return None
    return found["return"]


def _function(handler: Any) -> Any:
    """Return the function of a `functools.partial`, as it was before decorators wrapped it."""
    return unwrap(_unpartial(handler))


def _unpartial(handler: Any) -> Any:
    return handler.func if isinstance(handler, partial) else handler


def _path_parameter(name: str, convertor: Convertor[Any] | None) -> JSON:
    schema = _TYPES.get(type(convertor), {"type": "string", "minLength": 1})
    return {"name": name, "in": "path", "required": True, "schema": schema}
