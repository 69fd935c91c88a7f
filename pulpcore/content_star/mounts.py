"""Apps that plugins serve at prefixes of their own, beside the content prefix."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

_mounted: dict[str, ASGIApp] = {}


def mount(prefix: str, app: ASGIApp) -> None:
    """Serve everything below `prefix`, which begins and ends with a slash, with `app`.

    The path without that last slash is served with it too. The scope reaches `app` as it is: with
    the whole path. Raises ValueError for a prefix that is no such path or that something serves
    already.
    """
    if not (prefix.startswith("/") and prefix.endswith("/") and prefix != "/"):
        raise ValueError(f"A prefix begins and ends with a slash, which {prefix!r} does not.")
    if prefix in _mounted:
        raise ValueError(f"{_mounted[prefix]!r} and {app!r} both want to serve {prefix!r}.")
    _mounted[prefix] = app


def unmount(prefix: str) -> None:
    """Serve `prefix` no more."""
    del _mounted[prefix]


def mounted(scope: Scope) -> ASGIApp | None:
    """Return the app of the longest prefix that the path of the URL is below, if there is one."""
    prefix = below(scope, _mounted)
    return _mounted[prefix] if prefix else None


def below(scope: Scope, prefixes: Iterable[str]) -> str | None:
    """Return the longest of `prefixes` that the path of the URL is below, if there is one."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return max((each for each in prefixes if f"{path}/".startswith(each)), key=len, default=None)


class Mounts:
    """ASGI middleware that gives requests to what is mounted at their path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = mounted(scope) if scope["type"] == "http" else None
        await (app or self.app)(scope, receive, send)
