"""Request heads of which the response may be immediate, and a cache of those that are repeated.

Clients of one version send the same head for a file: parsing it costs more than the response.
"""

from collections.abc import Mapping
from typing import Any

import httptools
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from pulpcore.content_star.responses.immediate import HEAD_CACHE

# Of requests that the application is called for: those with a body, an expectation, a range, or a
# condition other than that of a cache that revalidates.
_NEVER = frozenset(
    b"content-length expect if-match if-modified-since if-range if-unmodified-since range"
    b" transfer-encoding".split()
)
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})

# Of heads that are not cached: credentials, and the client of each request through a proxy.
_NOT_CACHED = _FORWARDED | {b"authorization", b"cookie", b"proxy-authorization"}

# Items of a scope that depend on the head alone.
_ITEMS = (
    "type", "asgi", "http_version", "method", "path", "raw_path", "query_string", "root_path",
    "headers", "state",
)  # fmt: skip

# With these limits, the cache takes at most some 10 MB; heads of clients such as pip take 2 MB.
MAX_HEADS, MAX_HEAD_BYTES, MAX_HEADERS = 1000, 2048, 24


class RequestHeads:
    """The request heads of a server: whether their responses may be immediate, and a cache."""

    def __init__(self, config: Config) -> None:
        self._set_client: Any = None
        if type(config.loaded_app) is ProxyHeadersMiddleware:
            self._set_client = ProxyHeadersMiddleware(_end, config.forwarded_allow_ips)
        self._scopes: dict[bytes, dict[str, Any]] = {}
        self._seen: set[int] = set()

    def complete(self, scope: Scope, method: bytes, url: bytes) -> bool:
        """Set method, URL and client of a request; return whether its response may be immediate.

        Raises the exceptions for an invalid URL that uvicorn raises for a call.
        """
        names = {name for name, _ in scope["headers"]}
        if not names.isdisjoint(_NEVER):
            return False
        target = httptools.parse_url(url)
        scope["method"] = method.decode("ascii")
        scope["raw_path"] = target.path
        scope["path"] = target.path.decode("ascii")  # uvicorn decodes it for a call
        scope["query_string"] = target.query or b""
        return self._set_client is None or names.isdisjoint(_FORWARDED) or self._forward(scope)

    def _forward(self, scope: Scope) -> bool:
        """Set client and scheme by the headers of a trusted proxy; return False if that fails."""
        try:
            self._set_client(scope, None, None).send(None)
        except StopIteration:  # uvicorn's middleware awaits nothing of its own
            return True
        except Exception:
            return False
        return True

    def add(self, head: bytes, scope: Scope) -> None:
        """Cache the scope that was parsed from `head`, if this is the second time.

        It has to be one head and nothing else.
        """
        headers = scope["headers"]
        if len(head) > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS or self._note(head):
            return
        # A line for the request, one for each header, and an empty one.
        is_whole = head.endswith(b"\r\n\r\n") and head.count(b"\n") == len(headers) + 2
        if not is_whole or not _NOT_CACHED.isdisjoint(name for name, _ in headers):
            return
        if len(self._scopes) >= MAX_HEADS:
            self._scopes.clear()
        self._scopes[head] = {key: scope[key] for key in _ITEMS} | {HEAD_CACHE: {}}

    def _note(self, head: bytes) -> bool:
        """Note that a head was received, and return whether it is the first time."""
        value = hash(head)
        if value in self._seen:
            return False
        if len(self._seen) >= MAX_HEADS:
            self._seen.clear()
        self._seen.add(value)
        return True

    def get(self, head: bytes, connection: Mapping[str, Any]) -> Scope | None:
        """Return a scope for a request with this head, or None if it is not cached.

        `connection` has the other items: client, server and scheme.
        """
        if len(head) > MAX_HEAD_BYTES:
            return None
        found = self._scopes.get(head)
        return None if found is None else {**found, **connection}


async def _end(*args: Any) -> None:
    """Stand in for the application that `ProxyHeadersMiddleware` wraps."""
