"""Fast path for cached public files: sent from memory, past the inner middleware.

Passing a cached response through all layers takes half of its time. The layers inside this one have
nothing to do for it: it raises no errors, only paths of the content app are cached, and the headers
for CDNs are stored with the entry.
"""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.cache.cdn_headers import add_cdn_headers, cache_header
from pulpcore.content_star.cache.entries import CacheEntry
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.listings.facts_query import facts_query
from pulpcore.content_star.listings.negotiation import prefers_json
from pulpcore.content_star.request_info import RequestInfo, has_request_info, request_info
from pulpcore.content_star.resolve.paths import decoded_path, raw_path
from pulpcore.content_star.responses.immediate import HEAD_CACHE, ImmediateResponse, ResponseHead

# The raw path of a cache miss.
_MISSED = "content_star.fast_path_missed"

# In HEAD_CACHE, the key of the response in the response cache, or None if it cannot be in it.
_CACHE_KEY = "cache_key"


class FastPath:
    """ASGI middleware that sends public responses that need neither the database nor a file."""

    def __init__(self, app: ASGIApp, cache: ResponseCache, prefix: str) -> None:
        """`prefix` of the content app begins and ends with a slash."""
        self.app = app
        self.cache = cache
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_missed = scope["type"] != "http" or scope.get(_MISSED) == raw_path(scope)
        response = None if is_missed else self.immediate_response(scope)
        if response is None:
            return await self.app(scope, receive, send)
        head, _, body = response
        headers = head.headers.copy()
        await send({"type": "http.response.start", "status": head.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        """Return the response if it is in memory; a call does not look it up again."""
        entry = self._entry_for(scope)
        response = (
            entry.public_file.immediate_response(scope) if entry and entry.public_file else None
        )
        if entry is None or response is None:
            scope[_MISSED] = raw_path(scope)  # a redirect within the process has another
            return None
        status, plain, body = response
        head = entry.heads.get(status)
        if head is None or has_request_info(scope):
            info = _record_entry(entry, scope)
            if head is None:
                headers = add_cdn_headers(plain, info) + cache_header(info, status)
                head = entry.heads[status] = ResponseHead(status, headers)
        return ImmediateResponse(head, [], body)

    def _entry_for(self, scope: Scope) -> CacheEntry | None:
        cached: dict[str, Any] = scope.get(HEAD_CACHE, {})
        if _CACHE_KEY not in cached:
            cached[_CACHE_KEY] = self._cache_key(scope)
        key = cached[_CACHE_KEY]
        return None if key is None else self.cache.get(key)

    def _cache_key(self, scope: Scope) -> tuple[str, str, bool] | None:
        if scope["method"] not in ("GET", "HEAD"):
            return None
        if facts_query(scope) is not None:
            return None
        try:
            path = decoded_path(scope)  # not normalized: other spellings miss
        except HTTPException:
            return None
        prefix = scope.get("root_path", "") + self.prefix
        if not path.startswith(prefix):
            return None
        # Equal to a `CacheKey`, which takes three times as long to create.
        return path[len(prefix) :], scope["method"], prefers_json(scope)


def _record_entry(entry: CacheEntry, scope: Scope) -> RequestInfo:
    info = request_info(scope)
    info.route = "stream_content"
    entry.fill(info)
    entry.fill_permitted(info)
    return info
