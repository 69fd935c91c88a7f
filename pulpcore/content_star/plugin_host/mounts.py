"""ASGI apps of plugins, mounted at prefixes outside of the content prefix."""

from collections.abc import Iterable

from django.conf import settings
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.distributions.registry import AlreadyServed

_mounted: dict[str, ASGIApp] = {}


def mount_app(prefix: str, app: ASGIApp) -> None:
    """Mount `app` at `prefix`, which begins and ends with a slash.

    It also gets requests for the prefix without the last slash. The scope is passed unchanged, with
    the whole path. Raises ValueError for an invalid prefix and one that overlaps a path of Pulp,
    `AlreadyServed` for one that is mounted.
    """
    if not (prefix.startswith("/") and prefix.endswith("/") and prefix != "/"):
        raise ValueError(f"A prefix must begin and end with a slash: {prefix!r}.")
    for taken in _pulp_paths():
        if prefix.startswith(taken) or taken.startswith(prefix):
            raise ValueError(f"{prefix!r} cannot be mounted: it overlaps {taken!r} of Pulp itself.")
    if prefix in _mounted:
        raise AlreadyServed(f"Both {_mounted[prefix]!r} and {app!r} are mounted at {prefix!r}.")
    _mounted[prefix] = app


def unmount_app(prefix: str) -> None:
    """Remove the app at `prefix`."""
    del _mounted[prefix]


def mounted(scope: Scope) -> ASGIApp | None:
    """Return the app at the longest prefix of the URL's path, None without one."""
    prefix = below(scope, _mounted) if _mounted else None
    return _mounted[prefix] if prefix else None


def below(scope: Scope, prefixes: Iterable[str]) -> str | None:
    """Return the longest of `prefixes` that the path of the URL is below, None without one."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return max((each for each in prefixes if f"{path}/".startswith(each)), key=len, default=None)


def all_mounted() -> dict[str, ASGIApp]:
    """Return a copy of the mounted apps by prefix, for `restore`."""
    return dict(_mounted)


def restore(earlier: dict[str, ASGIApp]) -> None:
    """Undo mounts since `all_mounted`, of a module that failed to import."""
    _mounted.clear()
    _mounted.update(earlier)


def _pulp_paths() -> tuple[str, ...]:
    return (
        settings.CONTENT_PATH_PREFIX,
        f"{settings.API_ROOT}api/",
        settings.STATIC_URL,
        "/auth/",
    )


class Mounts:
    """ASGI middleware that routes requests to mounted apps."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = mounted(scope) if scope["type"] == "http" else None
        await (app or self.app)(scope, receive, send)
