"""Live APIs of plugins: what answers routes, below a base path or at a prefix of its own.

Their handlers learn where they are and who asks from the functions here, which take the request.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, cached_property, partial
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.db import connections
from django.utils.functional import SimpleLazyObject
from rest_framework.request import Request as DRFRequest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from pulpcore.app.contexts import with_domain, with_user
from pulpcore.app.models import Domain
from pulpcore.content_star.auth.authentication import authenticate, challenge
from pulpcore.content_star.auth.password_checks import with_passwords
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.routes import check_routes, executor_of, matching
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.distribution import ResolvedPath, find_domain
from pulpcore.content_star.resolve.paths import ContentPath, decoded_path
from pulpcore.content_star.responses.defaults import DefaultHeadersMiddleware
from pulpcore.content_star.responses.disconnect import DisconnectWatcher
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

# Live answers share an origin with the REST API and its sessions, as files do. What they say may
# depend on anything, so no cache keeps them unless they say so.
DEFAULTS = {**SECURITY_HEADERS, "cache-control": "no-store"}

_KEY = "content_star.live"


class PluginContext:
    """What is known about a request to a live API."""

    def __init__(self, scope: Scope, domain: Domain, served: DistributionApp | None = None) -> None:
        self._scope = scope
        self.domain = domain
        self.served = served

    @cached_property
    def drf_request(self) -> DRFRequest:
        """The REST framework's request, authenticated; blocks, and raises as the API would."""
        return authenticate(self._scope, strict=True)

    async def check_password(self) -> None:
        """Have the password checked that was sent with Basic authentication, if one was.

        Before a route runs, in threads for that: a route cannot be called again, and would hold one
        of the few threads of routes.
        """
        scope = self._scope
        if Headers(scope=scope).get("authorization", "").lower().startswith("basic "):
            executor = executor_of(Request(scope))
            await with_passwords(scope, partial(executor.run, authenticate, scope))


def resolved_path_of(request: Request) -> ResolvedPath:
    """Return the distribution that the request is for, and the path below it.

    Raises LookupError at a prefix of a plugin's own, below which no distribution is looked for.
    """
    return distribution_app(request).resolved


def distribution_app(request: Request) -> DistributionApp:
    """Return the object of the plugin's own class that serves the distribution of the request.

    Its methods answer with files: `file`, `artifact`. They block. Raises LookupError as
    `resolved_path_of`.
    """
    served = _live_of(request).served
    if served is None:
        raise LookupError("This request is for no distribution.")
    return served


def domain_of(request: Request) -> Domain:
    """Return the domain that the request is for; it is Pulp's current one meanwhile, too."""
    return _live_of(request).domain


def user_of(request: Request) -> Any:
    """Return who sends the request, Django's AnonymousUser for those who do not say. Blocks.

    Asks the API's own authentication classes, once a request. Raises what they raise for
    credentials that are wrong (401), and for a browser's session without the header `X-CSRFToken`
    where the method is not safe (403).
    """
    return _live_of(request).drf_request.user


def require_user(request: Request) -> Any:
    """Return who sends the request. Blocks.

    Raises `HTTPException` 401 for those who do not say, so that clients ask them, or 403 where they
    should not be asked: by the rules that content guards have. Else as `user_of`.
    """
    user = user_of(request)
    if user.is_authenticated:
        return user
    header = challenge(_live_of(request).drf_request)
    if header is None:
        raise HTTPException(403, "This is for known users only.")
    raise HTTPException(401, "Log in first.", {"WWW-Authenticate": header})


class DistributionRoutes:
    """Answers one authorized request with the routes of a distribution's app."""

    def __init__(self, served: DistributionApp) -> None:
        self.served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        info = request_info(scope)
        info.route, info.is_plugin_route = "live", True
        live = PluginContext(scope, self.served.distribution.pulp_domain, self.served)
        child = {**scope, **_below(scope, self.served.resolved)}
        await _answer(_router(type(self.served)), live, child, receive, send)


class MountedRoutes:
    """ASGI app that answers with `routes` below a prefix of a plugin's own."""

    def __init__(self, prefix: str, routes: Sequence[BaseRoute]) -> None:
        """`prefix` begins and ends with a slash."""
        self.prefix = prefix
        self.router = Router(routes, redirect_slashes=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.router.routes})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, root = decoded_path(scope), scope.get("root_path", "") + self.prefix
        name, rest = "default", path[len(root) :]  # empty without the slash of the prefix, too
        if settings.DOMAIN_ENABLED:
            name, _, rest = rest.partition("/")
            root += f"{name}/"
        domain = await executor_of(Request(scope)).run(find_domain, ContentPath(name, rest))
        info = request_info(scope)
        info.route, info.is_plugin_route, info.domain = "live", True, domain.name
        child = {**scope, **_placed(root.rstrip("/"), f"/{rest}")}
        await _answer(self.router, PluginContext(scope, domain), child, receive, send)


def mount(prefix: str, routes: Sequence[BaseRoute]) -> None:
    """Serve `routes` below `prefix`, which begins and ends with a slash, in all domains.

    Where domains are on, the first segment below the prefix is the domain's name, as it is below
    the content prefix. Paths of routes begin after it. No guard is asked.
    Raises ValueError for a prefix that is Pulp's own or taken, TypeError for routes that block.
    """
    check_routes(routes, f"what is mounted at {prefix!r}")
    mounts.mount(prefix, MountedRoutes(prefix, routes))


def matching_route(
    app: type[DistributionApp], request: Request, resolved: ResolvedPath
) -> tuple[bool, set[str]]:
    """Tell whether a route of `app` takes the request, and which methods those at its path take."""
    if not app.routes:
        return False, set()
    scope = request.scope
    if not resolved.path and not scope["path"].endswith("/"):
        return False, set()  # relative links would miss: the root is the URL with the slash
    return matching(app.routes, {**scope, **_below(scope, resolved)})


@cache
def _router(app: type[DistributionApp]) -> Router:
    return Router(app.routes, redirect_slashes=False)


def _live_of(request: Request) -> PluginContext:
    live: PluginContext = request.scope[_KEY]
    return live


def _below(scope: Scope, resolved: ResolvedPath) -> Scope:
    """Return what a scope says about paths once it is the distribution's routes' turn."""
    path = decoded_path(scope)
    root = path[: len(path) - len(resolved.path)].rstrip("/")
    return _placed(root, f"/{resolved.path}")


def _placed(root: str, path: str) -> Scope:
    # `app_root_path` is what Starlette's `url_for` begins with.
    return {"root_path": root, "app_root_path": root, "path": root + path, "path_params": {}}


async def _answer(
    router: Router, live: PluginContext, scope: Scope, receive: Receive, send: Send
) -> None:
    scope.update({_KEY: live, "router": router})
    await live.check_password()
    user = SimpleLazyObject(lambda: live.drf_request.user)
    answer = DisconnectWatcher(DefaultHeadersMiddleware(router, DEFAULTS))
    with with_domain(live.domain), with_user(user):
        async with _asynchronous_orm():
            await answer(scope, receive, send)


@asynccontextmanager
async def _asynchronous_orm() -> AsyncIterator[None]:
    """Give Django's asynchronous queries a thread of this request's own.

    Without, all requests of the process would share one thread and its connection, which nobody
    would replace when it dies. The connection is closed with the request, as Django does.
    """
    async with ThreadSensitiveContext() as context:
        try:
            yield
        finally:
            if context in SyncToAsync.context_to_thread_executor:
                await sync_to_async(connections.close_all)()
