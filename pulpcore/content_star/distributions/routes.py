"""Plugin routes: Starlette's, with blocking handlers run in a database executor."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import isclass, iscoroutinefunction
from typing import Any

from starlette import routing
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Host, Match, Mount
from starlette.types import Scope

from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.resources import resources_of

Blocking = Callable[[Request], Response]
Coroutine = Callable[[Request], Awaitable[Response]]


class Route(routing.Route):
    """Starlette's `Route`, but blocking functions run in the database executor.

    Starlette would run them in threads whose database connections are never closed or checked. A
    handler is not called again if its connection dies. Methods of an `HTTPEndpoint` have to be
    coroutines.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        openapi: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """`options` are keyword arguments of Starlette's `Route`, such as `methods` and `name`.

        `openapi` has fields of the Operation Object of OpenAPI 3.1, such as `parameters`, which
        replace those that are made from the handler.
        """
        self.openapi = openapi
        is_function = not isclass(endpoint)
        if is_function and _blocks(endpoint):
            endpoint = in_executor(endpoint)
        super().__init__(path, endpoint, **options)


def in_executor(handler: Blocking) -> Coroutine:
    """Return a coroutine function that runs `handler` in the database executor."""

    @wraps(handler)
    async def threaded(request: Request) -> Response:
        return await executor_of(request).run_once(handler, request)

    return threaded


def executor_of(request: Request) -> DatabaseExecutor:
    """Return the database executor of plugin routes, for blocking calls.

    Files have an executor of their own, so that slow plugin routes do not delay them.
    """
    return resources_of(request.scope).route_executor


def check_routes(routes: Iterable[BaseRoute], owner: str) -> None:
    """Raise TypeError if a handler blocks and is not run in the database executor."""
    for route in routes:
        match route:
            case Mount() | Host():
                check_routes(route.routes, owner)
            case routing.Route() if _blocks(route.endpoint):
                raise TypeError(
                    f"The handler of route {route.path!r} of {owner} blocks: make it a coroutine, "
                    f"or use Route of pulpcore.content_star.plugin."
                )


def matching(routes: Sequence[BaseRoute], scope: Scope) -> tuple[bool, set[str]]:
    """Return whether a route matches, and else the methods of routes that match the path."""
    methods: set[str] = set()
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return True, methods
        if match is Match.PARTIAL and isinstance(route, routing.Route):
            methods |= route.methods or set()
    return False, methods


def _blocks(endpoint: Any) -> bool:
    if not isclass(endpoint):
        call = getattr(endpoint, "func", endpoint)  # of a functools.partial
        return not (iscoroutinefunction(call) or iscoroutinefunction(call.__call__))
    if not issubclass(endpoint, HTTPEndpoint):
        return False  # an ASGI application
    verbs = ("get", "head", "post", "put", "patch", "delete", "options")
    handlers = (getattr(endpoint, verb, None) for verb in verbs)
    return not all(each is None or iscoroutinefunction(each) for each in handlers)
