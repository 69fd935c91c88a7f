"""Routes of live APIs: Starlette's, with blocking handlers in threads that may use the database."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import wraps
from inspect import isclass, iscoroutinefunction
from typing import Any

from starlette import routing
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

from pulpcore.content_star.database.executor import DatabaseExecutor

EXECUTOR = "content_star.door"
"""Where the scope of a request has the door that live APIs use."""

Blocking = Callable[[Request], Response]
Coroutine = Callable[[Request], Awaitable[Response]]


class Route(routing.Route):
    """Starlette's `Route`, but a function that is no coroutine runs behind the database door.

    Starlette would run it in a thread whose database connection nobody looks after. Such a handler
    is called once, even if its connection dies. Methods of an `HTTPEndpoint` have to be coroutines.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """`options` are those of Starlette's `Route`: `methods`, `name` and others."""
        is_function = not isclass(endpoint)
        if is_function and _blocks(endpoint):
            endpoint = in_executor(endpoint)
        super().__init__(path, endpoint, **options)


def in_executor(handler: Blocking) -> Coroutine:
    """Return a coroutine function that runs `handler` behind the database door."""

    @wraps(handler)
    async def threaded(request: Request) -> Response:
        return await executor_of(request).once(handler, request)

    return threaded


def executor_of(request: Request) -> DatabaseExecutor:
    """Return the door between the event loop and what blocks; it is the live APIs' own.

    Files have another one, so that a slow API keeps no file waiting.
    """
    executor: DatabaseExecutor = request.scope[EXECUTOR]
    return executor


def check(routes: Iterable[BaseRoute], owner: str) -> None:
    """Raise TypeError if handlers would run in threads whose connections nobody looks after."""
    for route in routes:
        match route:
            case Mount():
                check(route.routes, owner)
            case routing.Route() if _blocks(route.endpoint):
                raise TypeError(
                    f"The handler of {route.path!r} in {owner} blocks: make it a coroutine, or a "
                    f"function in a Route of pulpcore.content_star.plugin."
                )


def matching(routes: Sequence[BaseRoute], scope: Scope) -> tuple[bool, set[str]]:
    """Tell whether a route takes the request, and which methods those at its path would take."""
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
        return False  # an ASGI app, which looks after itself
    verbs = ("get", "head", "post", "put", "patch", "delete", "options")
    handlers = [getattr(endpoint, verb) for verb in verbs if hasattr(endpoint, verb)]
    return not all(map(iscoroutinefunction, handlers))
