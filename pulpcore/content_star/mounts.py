"""Apps that plugins serve at prefixes of their own, beside the content prefix."""

from starlette.types import ASGIApp, Receive, Scope, Send

_mounted: dict[str, ASGIApp] = {}


def mount(prefix: str, app: ASGIApp) -> None:
    """Serve everything below `prefix`, which begins and ends with a slash, with `app`.

    The scope reaches `app` as it is: with the whole path. Raises ValueError for a prefix that is no
    such path or that something serves already.
    """
    if not (prefix.startswith("/") and prefix.endswith("/") and prefix != "/"):
        raise ValueError(f"A prefix begins and ends with a slash, which {prefix!r} does not.")
    if prefix in _mounted:
        raise ValueError(f"{_mounted[prefix]!r} and {app!r} both want to serve {prefix!r}.")
    _mounted[prefix] = app


def mounted(scope: Scope) -> ASGIApp | None:
    """Return the app of the longest prefix that the path of the URL is below, if there is one."""
    if not _mounted:
        return None
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    below = [prefix for prefix in _mounted if path.startswith(prefix)]
    return _mounted[max(below, key=len)] if below else None


class Mounts:
    """ASGI middleware that gives requests to what is mounted at their path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = mounted(scope) if scope["type"] == "http" else None
        await (app or self.app)(scope, receive, send)
