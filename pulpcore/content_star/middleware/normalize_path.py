"""Path normalization, so that guards and the cache see one spelling of each path."""

import re

from django.conf import settings
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.paths import decoded_path, raw_path

# Maximum bytes of the query. Upstream's server allows 8,190 for path and query together.
MAX_QUERY_BYTES = 8190

_DOT_SEGMENT = re.compile(r"(?:^|/)\.\.?(?:/|\Z)")
_ENCODED_DOT = re.compile(rb"%2e", re.IGNORECASE)
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_SLASHES = re.compile(rb"(?:/|%2f){2,}", re.IGNORECASE)


class NormalizePath:
    """ASGI middleware that normalizes paths below the content prefix.

    Repeated slashes are merged, then dot segments are removed (RFC 3986 section 5.2.4): the order
    of nginx and of `url_normalize`, which redirect guards sign with, so that normalizing does not
    invalidate a signature. No name in a repository has either: Pulp's API refuses them.

    Raises `HTTPException`: 400 for dot segments that would leave the content prefix or the domain,
    for those in a path with an encoded slash, which may or may not end a segment, and for those in
    a path outside of the prefix; 414 for a query of over `MAX_QUERY_BYTES`; and as `decoded_path`.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """`prefix` of the content app begins and ends with a slash."""
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = self.normalized(scope)
        await self.app(scope, receive, send)

    def normalized(self, scope: Scope) -> Scope:
        """Return `scope`, or a copy with the normalized path; `raw_path` stays percent-encoded."""
        if len(scope["query_string"]) > MAX_QUERY_BYTES:
            raise HTTPException(
                414, f"The query of the URL is longer than {MAX_QUERY_BYTES} bytes."
            )
        raw = raw_path(scope)
        if not (b"/." in raw or b"//" in raw or b"%2" in raw):
            return scope
        path = decoded_path(scope)
        prefix = scope.get("root_path", "") + self.prefix
        if not path.startswith(prefix):
            refuse_dot_segments(path)
            return scope
        merged = _SLASHES.sub(b"/", raw)
        if has_dot_segments(path):
            if _ENCODED_SLASH.search(raw):
                raise HTTPException(
                    400, "The path has dot segments together with an encoded slash."
                )
            merged = _without_dot_segments(merged, _depth(prefix))
        if merged == raw:
            return scope
        request_info(scope)  # created here to be shared by both scopes
        normalized = {**scope, "raw_path": merged}
        return {**normalized, "path": decoded_path(normalized)}


def has_dot_segments(path: str) -> bool:
    """Return whether a segment of the decoded `path` is `.` or `..`."""
    return "." in path and _DOT_SEGMENT.search(path) is not None


def refuse_dot_segments(path: str) -> None:
    """Raise `HTTPException` 400 if the decoded `path` has dot segments.

    Clients remove dot segments before they send a request. Those that remain can bypass the access
    rules of a reverse proxy, which match the start of the path.
    """
    if has_dot_segments(path):
        raise HTTPException(400, "The path of the URL has dot segments.")


def _depth(prefix: str) -> int:
    """Return the number of segments that `..` cannot remove: the prefix and the domain's name."""
    return prefix.count("/", 1) + bool(settings.DOMAIN_ENABLED)


def _without_dot_segments(raw: bytes, depth: int) -> bytes:
    segments: list[bytes] = []
    last = b""
    for segment in raw[1:].split(b"/"):
        last = _ENCODED_DOT.sub(b".", segment) if len(segment) <= len(b"%2e%2e") else segment
        if last == b"..":
            if len(segments) <= depth:
                raise HTTPException(
                    400, "The dot segments of the path leave the content prefix or the domain."
                )
            segments.pop()
        elif last != b".":
            segments.append(segment)
    if last in (b".", b".."):
        segments.append(b"")
    return b"/" + b"/".join(segments)
