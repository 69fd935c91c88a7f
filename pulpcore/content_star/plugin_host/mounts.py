"""Apps that plugins serve at prefixes of their own, beside the content prefix."""

from collections.abc import Iterable

from django.conf import settings
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.distributions.registry import AlreadyServed
from pulpcore.content_star.distributions.routes import EXECUTOR

_mounted: dict[str, ASGIApp] = {}


def mount(prefix: str, app: ASGIApp) -> None:
    """Serve everything below `prefix`, which begins and ends with a slash, with `app`.

    The path without that last slash is served with it too. The scope reaches `app` as it is: with
    the whole path. Raises ValueError for a prefix that is no such path or would hide something of
    Pulp's own, `AlreadyServed` if something serves it already.
    """
    if not (prefix.startswith("/") and prefix.endswith("/") and prefix != "/"):
        raise ValueError(f"A prefix begins and ends with a slash, which {prefix!r} does not.")
    for taken in _pulps_own():
        if prefix.startswith(taken) or taken.startswith(prefix):
            raise ValueError(f"Nothing can be mounted at {prefix!r}: Pulp itself is at {taken!r}.")
    if prefix in _mounted:
        raise AlreadyServed(f"Both {_mounted[prefix]!r} and {app!r} want to serve {prefix!r}.")
    _mounted[prefix] = app


def unmount(prefix: str) -> None:
    """Serve `prefix` no more."""
    del _mounted[prefix]


def mounted(scope: Scope) -> ASGIApp | None:
    """Return the app of the longest prefix that the path of the URL is below, if there is one."""
    prefix = below(scope, _mounted) if _mounted else None
    return _mounted[prefix] if prefix else None


def below(scope: Scope, prefixes: Iterable[str]) -> str | None:
    """Return the longest of `prefixes` that the path of the URL is below, if there is one."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return max((each for each in prefixes if f"{path}/".startswith(each)), key=len, default=None)


def all_mounted() -> dict[str, ASGIApp]:
    """Return what is mounted now, by prefix, for `restore`."""
    return dict(_mounted)


def restore(earlier: dict[str, ASGIApp]) -> None:
    """Take away what was mounted since: by a module that then failed to import."""
    _mounted.clear()
    _mounted.update(earlier)


def _pulps_own() -> tuple[str, ...]:
    return (
        settings.CONTENT_PATH_PREFIX,
        f"{settings.API_ROOT}api/",
        settings.STATIC_URL,
        "/auth/",
    )


class Mounts:
    """ASGI middleware that gives requests to what is mounted at their path.

    Live APIs, these and those below base paths, find their database door in the scope.
    """

    def __init__(self, app: ASGIApp, executor: DatabaseExecutor) -> None:
        self.app = app
        self.executor = executor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope[EXECUTOR] = self.executor
        await (mounted(scope) or self.app)(scope, receive, send)
