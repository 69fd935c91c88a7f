"""The content endpoint: find the distribution, authorize, and let its app respond."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, replace
from functools import partial

from django.conf import settings
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.app.contexts import with_domain
from pulpcore.content_star.auth.guards import authorize
from pulpcore.content_star.auth.password_checks import with_passwords
from pulpcore.content_star.cache.cdn_headers import PREFLIGHT, surrogate_keys, vary_headers
from pulpcore.content_star.cache.entries import CacheEntry, CacheKey, DistributionEntry
from pulpcore.content_star.cache.policy import CacheWrite
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.database.batching import Batcher
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.distributions.registry import has_routes
from pulpcore.content_star.listings.base_paths import has_base_paths, next_segments
from pulpcore.content_star.listings.directory import DirectoryEntry
from pulpcore.content_star.listings.negotiation import VaryOnAccept, prefers_json
from pulpcore.content_star.listings.pagination import page_query
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.plugin_host.context import DistributionRoutes, matching_route
from pulpcore.content_star.plugin_host.discovery import app_for
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import files
from pulpcore.content_star.resolve.distribution import ResolvedPath, find_distribution, find_domain
from pulpcore.content_star.resolve.paths import ContentPath, decoded_path, parse_content_path
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.responses.websockets import refuse

READS = ("GET", "HEAD")

# Requests that are answered in one trip at most: the last of them waits for all.
GROUP = 32


class Content:
    """ASGI endpoint for everything below `CONTENT_PATH_PREFIX`."""

    def __init__(
        self, executor: DatabaseExecutor, prefix: str, cache: ResponseCache | None = None
    ) -> None:
        """`prefix` of the URLs' paths begins and ends with a slash. Without `cache` nothing is
        kept."""
        self.executor = executor
        self.prefix = prefix
        self.cache = cache or ResponseCache(0, 0)
        self.together = Batcher(self._respond_batch, GROUP)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse(scope, send)
            return
        response = await self.respond(Request(scope))
        await response(scope, receive, send)

    async def respond(self, request: Request) -> ASGIApp:
        """Choose the response; everything that blocks is one trip through the door."""
        scope, method = request.scope, request.method
        path = decoded_path(scope)
        prefix = scope.get("root_path", "") + self.prefix
        if method not in READS:
            if not (path.startswith(prefix) and has_routes()):
                return refusal(request)
            return await self._run(request, respond_with_route, path.removeprefix(prefix))
        if f"{path}/" == prefix:
            return redirect_with_slash(request)
        if not path.startswith(prefix):
            raise HTTPException(404, f"Content is below '{prefix}'.")
        key = CacheKey(path.removeprefix(prefix), method, prefers_json(request))
        info = request_info(scope)
        entry = self.cache.get(key)
        if entry is None:
            content_path = parse_content_path(key.path)
            info.route = "stream_content" if content_path.path else "list_distributions"
            return await self._respond_uncached(request, content_path, key)
        info.route = "stream_content"
        entry.tell(info)
        if entry.is_open:
            entry.fill_permitted(info)
            return entry.answer.again(request)
        return await self._run(request, respond_from_cache, parse_content_path(key.path), entry)

    async def _run(self, request: Request, work: Callable[..., ASGIApp], *args: object) -> ASGIApp:
        """Do `work` for the request behind the door; its guard may need a password checked."""
        trip = partial(self.executor.run, work, request, *args)
        return await with_passwords(request.scope, trip)

    async def _respond_uncached(
        self, request: Request, content_path: ContentPath, key: CacheKey
    ) -> ASGIApp:
        cache_write = CacheWrite(self.cache, key)
        distribution_entry = self.cache.find(content_path)
        is_directory = key.path.endswith("/")
        if (
            distribution_entry is not None
            and distribution_entry.is_shared
            and not (is_directory or key.json)
        ):
            asked = BatchedRequest(request, content_path, cache_write, self.executor.context())
            response = await self.together.ask(distribution_entry, asked)
            if response is not None:
                return response
        return await self._run(request, respond, content_path, cache_write)

    async def _respond_batch(
        self, distribution_entry: DistributionEntry, group: Sequence["BatchedRequest"]
    ) -> list[ASGIApp | None]:
        return await self.executor.run(respond_batch, distribution_entry, group)


def respond(
    request: Request, content_path: ContentPath, cache_write: CacheWrite | None = None
) -> ASGIApp:
    """Return the response to a GET or HEAD of `content_path`, and cache it. Blocks."""
    cache_write = cache_write or CacheWrite(
        ResponseCache(0, 0), CacheKey(content_path.path, request.method, json=False)
    )
    resolved = cache_write.resolve(content_path) or find_distribution(content_path)
    if resolved is None:
        return browse(request, content_path)
    return _respond_at(request, content_path, resolved, cache_write)


@dataclass(frozen=True)
class BatchedRequest:
    """A request that is answered together with others."""

    request: Request
    content_path: ContentPath
    cache_write: CacheWrite
    context: Context
    """In which it is answered, and what goes wrong is logged."""


def respond_batch(
    distribution_entry: DistributionEntry, group: Sequence[BatchedRequest]
) -> list[ASGIApp | None]:
    """Answer requests to one distribution with one query for all their files. Blocks.

    None for those that are better asked alone, by `respond`: there is no such file, or something
    went wrong, which then is that request's alone.
    """
    for each in group:
        each.cache_write.resume(distribution_entry)
    if not distribution_entry.alive or distribution_entry.source is None:  # forgotten meanwhile
        return [None] * len(group)
    resolved = distribution_entry.resolve(
        distribution_entry.distribution.base_path
    )  # one for all: only this thread has it
    paths = [distribution_entry.path_below(each.content_path.path) for each in group]
    found = files(distribution_entry.source, list(set(paths)))
    return [
        _respond_with(each, replace(resolved, path=path, file=found[path]))
        if path in found
        else None
        for each, path in zip(group, paths, strict=True)
    ]


def _respond_with(asked: BatchedRequest, resolved: ResolvedPath) -> ASGIApp | None:
    try:
        return asked.context.run(
            _respond_at, asked.request, asked.content_path, resolved, asked.cache_write
        )
    except Exception:
        return None


def _respond_at(
    request: Request, content_path: ContentPath, resolved: ResolvedPath, cache_write: CacheWrite
) -> ASGIApp:
    app = app_for(resolved.distribution)
    is_live, _ = matching_route(app, request, resolved)
    with permitted(request, content_path, resolved):
        cache_write.begin(resolved.distribution)
        serving = app(request, resolved)
        if is_live:
            return DistributionRoutes(serving)
        try:
            response = serving.respond()
        except HTTPException as error:
            cache_write.keep(serving, error)
            raise
        cache_write.keep(serving, response)
        return response


def respond_with_route(request: Request, path: str) -> ASGIApp:
    """Return the response to another method than GET or HEAD, which only routes take. Blocks.

    `path` is below the content prefix.
    """
    content_path = parse_content_path(path)
    resolved = find_distribution(content_path)
    if resolved is None:
        return refusal(request)
    app = app_for(resolved.distribution)
    is_live, methods = matching_route(app, request, resolved)
    if not is_live:
        return refusal(request, methods)
    with permitted(request, content_path, resolved):
        return DistributionRoutes(app(request, resolved))


def refusal(request: Request, methods: Iterable[str] = ()) -> Response:
    """Tell which methods there are, `methods` of routes beside those that every path has.

    Raises `HTTPException` 405 if another one was tried.
    """
    allow = {"Allow": ", ".join(sorted({*READS, "OPTIONS", *methods}))}
    if request.method == "OPTIONS":
        # For every path alike, which tells nothing: the headers of GET decide.
        return Response(headers=allow | PREFLIGHT if settings.CONTENT_STAR_CORS else allow)
    raise HTTPException(405, f"Method {request.method} is not allowed.", allow)


@contextmanager
def permitted(
    request: Request, content_path: ContentPath, resolved: ResolvedPath
) -> Iterator[None]:
    """Ask the guard of what was found, and be in its domain meanwhile. Blocks."""
    distribution = resolved.distribution
    info = request_info(request.scope)
    info.domain, info.pulp_type = distribution.pulp_domain.name, distribution.pulp_type
    info.vary = vary_headers(distribution.content_guard)
    with with_domain(distribution.pulp_domain):
        authorize(request, distribution, content_path.path)
        info.tags = surrogate_keys(distribution)
        yield


def respond_from_cache(request: Request, content_path: ContentPath, entry: CacheEntry) -> ASGIApp:
    """Return the kept response, if the guard lets the request pass and the plugin has no other.

    Blocks.
    """
    info = request_info(request.scope)
    domain = entry.distribution_entry.distribution.pulp_domain
    with with_domain(domain):
        authorize(request, entry.distribution_entry.guarded(), content_path.path)
        if not entry.asks_plugin:
            entry.fill_permitted(info)
            return entry.answer.again(request)
        resolved = entry.distribution_entry.resolve(content_path.path)
        info.tags = surrogate_keys(resolved.distribution)
        app = app_for(resolved.distribution)(request, resolved)
        app.entry = entry
        return app.respond()


def browse(request: Request, content_path: ContentPath) -> ASGIApp:
    """List the base paths that go on from `address`.

    Raises `HTTPException` 404 if none does, but for the root, which is there when it is empty.
    """
    path = decoded_path(request.scope)
    domain = find_domain(content_path)
    is_root = not content_path.path
    prefix = content_path.path if is_root or path.endswith("/") else f"{content_path.path}/"
    if not is_root and not has_base_paths(domain, prefix):
        raise HTTPException(404, f"No distribution has the base path of '{content_path.path}'.")
    if not path.endswith("/"):
        return redirect_with_slash(request)
    page = page_query(request)
    if request.method == "HEAD":
        return VaryOnAccept(head_for(request))
    entries = [DirectoryEntry(name) for name in next_segments(domain, prefix, page)]
    return VaryOnAccept(listing_for(request, entries, is_root=is_root))
