"""Plugin routes, below the base path of a distribution or at a prefix of the plugin's own.

Route handlers get the distribution, domain and user of a request from the functions here.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any

from django.conf import settings
from django.utils.functional import SimpleLazyObject
from rest_framework.request import Request as DRFRequest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.auth.authentication import authenticate, challenge
from pulpcore.content_star.auth.password_checks import with_passwords
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.routes import check_routes, executor_of, matching
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.distribution import ResolvedPath, find_domain
from pulpcore.content_star.resolve.paths import ContentPath, decoded_path
from pulpcore.content_star.resources import resources_of
from pulpcore.content_star.responses.body import ZERO_COPY
from pulpcore.content_star.responses.defaults import DefaultHeadersMiddleware
from pulpcore.content_star.responses.disconnect import DisconnectWatcher
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.content_star.upstream import with_domain, with_user
from pulpcore.plugin.models import Domain

# Responses of plugin routes share an origin with the REST API and its sessions, as files do. They
# may depend on anything, so caches must not store them unless the route sets `Cache-Control`.
DEFAULTS = {**SECURITY_HEADERS, "cache-control": "no-store"}

_KEY = "content_star.plugin_context"


class PluginContext:
    """Context of a request to a plugin route: its domain, distribution and user."""

    def __init__(self, scope: Scope, domain: Domain, served: DistributionApp | None = None) -> None:
        self._scope = scope
        self.domain = domain
        self.served = served

    @cached_property
    def drf_request(self) -> DRFRequest:
        """Return the authenticated REST framework request. Blocks; raises `APIException`."""
        return authenticate(self._scope, strict=True)

    async def check_password(self) -> None:
        """Check the password of Basic authentication, if the request has one.

        Before the route, and in the threads for password checks: a route cannot be called twice,
        and would occupy one of the few threads for routes.
        """
        scope = self._scope
        if Headers(scope=scope).get("authorization", "").lower().startswith("basic "):
            executor = executor_of(Request(scope))
            await with_passwords(scope, partial(executor.run, authenticate, scope))


def resolved_path_of(request: Request) -> ResolvedPath:
    """Return the distribution of the request, and the path relative to it.

    Raises LookupError at a prefix of the plugin's own, which has no distribution.
    """
    return distribution_app(request).resolved


def distribution_app(request: Request) -> DistributionApp:
    """Return the instance of the plugin's `DistributionApp` that serves the request.

    Its methods `file` and `artifact` return file responses; they block. Raises LookupError as
    `resolved_path_of`.
    """
    served = _context_of(request).served
    if served is None:
        raise LookupError("The request is at a prefix of the plugin, which has no distribution.")
    return served


def domain_of(request: Request) -> Domain:
    """Return the domain of the request, which is also Pulp's current domain in the route."""
    return _context_of(request).domain


def user_of(request: Request) -> Any:
    """Return the user of the request, AnonymousUser without credentials. Blocks.

    Runs the API's authentication classes, once per request. Raises `APIException` 401 for wrong
    credentials, and 403 for a browser's session without the header `X-CSRFToken` if the method is
    not safe.
    """
    return _context_of(request).drf_request.user


def require_user(request: Request) -> Any:
    """Return the authenticated user of the request. Blocks.

    Raises `HTTPException` 401 with a challenge if the user is anonymous, or 403 without one, by the
    same rules as content guards. Else as `user_of`.
    """
    user = user_of(request)
    if user.is_authenticated:
        return user
    header = challenge(_context_of(request).drf_request)
    if header is None:
        raise HTTPException(403, "Only authenticated users have access.")
    raise HTTPException(401, "Authentication is required.", {"WWW-Authenticate": header})


class DistributionRoutes:
    """ASGI app for one authorized request to the routes of a distribution's app."""

    def __init__(self, served: DistributionApp) -> None:
        self.served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        info = request_info(scope)
        info.route, info.is_plugin_route = "plugin_route", True
        context = PluginContext(scope, self.served.distribution.pulp_domain, self.served)
        child = {**scope, **_distribution_scope(scope, self.served.resolved)}
        run = partial(_prepare, _router(type(self.served)), context, child)
        await _respond(run, scope, receive, send)


class MountedRoutes:
    """ASGI app for `routes` below a prefix of a plugin's own."""

    def __init__(self, prefix: str, routes: Sequence[BaseRoute]) -> None:
        """`prefix` begins and ends with a slash."""
        self.prefix = prefix
        self.router = Router(routes, redirect_slashes=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.router.routes})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(partial(self._prepare, scope), scope, receive, send)

    async def _prepare(self, scope: Scope) -> ASGIApp:
        path, root = decoded_path(scope), scope.get("root_path", "") + self.prefix
        name, rest = "default", path[len(root) :]  # also empty for the prefix without its slash
        if settings.DOMAIN_ENABLED:
            name, _, rest = rest.partition("/")
            root += f"{name}/"
        domain = await executor_of(Request(scope)).run(find_domain, ContentPath(name, rest))
        info = request_info(scope)
        info.route, info.is_plugin_route, info.domain = "plugin_route", True, domain.name
        child = {**scope, **_path_scope(root.rstrip("/"), f"/{rest}")}
        return await _prepare(self.router, PluginContext(scope, domain), child)


def mount(prefix: str, routes: Sequence[BaseRoute]) -> None:
    """Serve `routes` below `prefix`, which begins and ends with a slash, in all domains.

    Where domains are on, the first segment below the prefix is the domain's name, as it is below
    the content prefix. Paths of routes begin after it. No content guard applies.
    Raises ValueError for a prefix of Pulp, `AlreadyServed` for one that is mounted, and TypeError
    for routes that block.
    """
    check_routes(routes, f"what is mounted at {prefix!r}")
    mounts.mount_app(prefix, MountedRoutes(prefix, routes))


def matching_route(
    app: type[DistributionApp], request: Request, resolved: ResolvedPath
) -> tuple[bool, set[str]]:
    """Return whether a route of `app` matches the request, and the methods allowed at its path."""
    if not app.routes:
        return False, set()
    scope = request.scope
    if not resolved.path and not scope["path"].endswith("/"):
        return False, set()  # only the URL with a slash is the root: relative links
    return matching(app.routes, {**scope, **_distribution_scope(scope, resolved)})


@cache
def _router(app: type[DistributionApp]) -> Router:
    return Router(app.routes, redirect_slashes=False)


def _context_of(request: Request) -> PluginContext:
    context: PluginContext = request.scope[_KEY]
    return context


def _distribution_scope(scope: Scope, resolved: ResolvedPath) -> Scope:
    """Return the path keys of the scope for the routes of a distribution."""
    path = decoded_path(scope)
    root = path[: len(path) - len(resolved.path)].rstrip("/")
    return _path_scope(root, f"/{resolved.path}")


def _path_scope(root: str, path: str) -> Scope:
    # Starlette's `url_for` uses `app_root_path`.
    return {"root_path": root, "app_root_path": root, "path": root + path, "path_params": {}}


async def _respond(
    prepare: Callable[[], Awaitable[ASGIApp]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the response of the app that `prepare` returns; a disconnect cancels `prepare`."""
    pending = resources_of(scope).pending_requests
    app = await pending.run(Request(scope, receive), prepare)
    await app(scope, receive, send)


async def _prepare(router: Router, context: PluginContext, scope: Scope) -> ASGIApp:
    """Check the password, and return the app that calls the route of `scope`."""
    # Middleware of plugins drops messages that it does not know, as Starlette's for gzip does.
    extensions = {**(scope.get("extensions") or {})}
    extensions.pop(ZERO_COPY, None)
    scope.update({_KEY: context, "router": router, "extensions": extensions})
    await context.check_password()
    user = SimpleLazyObject(lambda: context.drf_request.user)
    app = DisconnectWatcher(DefaultHeadersMiddleware(router, DEFAULTS))
    executor = executor_of(Request(scope))

    async def call_route(_: Scope, receive: Receive, send: Send) -> None:
        with with_domain(context.domain), with_user(user), executor.asynchronous_orm():
            await app(scope, receive, send)

    return call_route
