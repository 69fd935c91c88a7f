"""The content endpoint: resolve the path, authorize, and call the distribution's app."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any

from anyio import to_thread
from django.conf import settings
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.auth.guards import authorize, needs_database
from pulpcore.content_star.auth.password_checks import with_passwords
from pulpcore.content_star.cache.cdn_headers import PREFLIGHT, surrogate_keys, vary_headers
from pulpcore.content_star.cache.entries import CacheEntry, CacheKey, DistributionEntry
from pulpcore.content_star.cache.policy import CacheWrite
from pulpcore.content_star.cache.stale import StaleResponses
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.database.availability import availability
from pulpcore.content_star.database.batching import Batcher
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.distributions.registry import has_routes
from pulpcore.content_star.distributions.use_page import how_to_use_response
from pulpcore.content_star.listings.base_paths import has_base_paths, next_segments
from pulpcore.content_star.listings.distributions import distributions_page
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.facts_query import USE, facts_query, refuse_facts
from pulpcore.content_star.listings.negotiation import VaryOnAccept, preferred_form, prefers_json
from pulpcore.content_star.listings.pagination import page_query
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.plugin_host.context import DistributionRoutes, matching_route
from pulpcore.content_star.plugin_host.discovery import app_for
from pulpcore.content_star.remote.pull_through.models import RemoteRefused
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import files
from pulpcore.content_star.resolve.distribution import ResolvedPath, find_distribution, find_domain
from pulpcore.content_star.resolve.paths import (
    ContentPath,
    decoded_path,
    parse_content_path,
    prefixes,
)
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.responses.disconnect import Abandonment
from pulpcore.content_star.responses.websockets import refuse
from pulpcore.content_star.upstream import with_domain

READ_METHODS = ("GET", "HEAD")

# Seconds between two looks whether the database has gone away during a lookup.
STALE_POLL = 0.1

# Maximum number of requests in a batch: the first response has to wait for the last.
MAX_BATCH = 32


class Content:
    """ASGI endpoint for everything below `CONTENT_PATH_PREFIX`."""

    def __init__(
        self,
        executor: DatabaseExecutor,
        prefix: str,
        cache: ResponseCache | None = None,
        stale: StaleResponses | None = None,
    ) -> None:
        """`prefix` of the URLs' paths begins and ends with a slash. Default: no cache."""
        self.executor = executor
        self.prefix = prefix
        self.cache = cache or ResponseCache(0, 0)
        self.stale = stale or StaleResponses(self.cache, 0)
        self._batcher = Batcher(self._respond_batch, MAX_BATCH, executor.timeout / 2)
        self._abandonment = Abandonment()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse(scope, send)
            return
        request = Request(scope, receive)
        try:
            response = await self.respond(request)
            await response(scope, receive, send)
        except (HTTPException, RemoteRefused) as error:
            match error:
                case HTTPException(status_code=404) | RemoteRefused(status=404):
                    await self._find_above(request)
            raise

    async def _find_above(self, request: Request) -> None:
        """Find the nearest directory above, which the page of a 404 names; programs get none."""
        if request.method not in READ_METHODS or preferred_form(request) != "page":
            return
        if availability.down_since is not None:
            return  # the 404 is in the cache, and does not wait for the database
        info = request_info(request.scope)
        with suppress(Exception):  # the answer stays 404, with a link to the index
            path = decoded_path(request.scope)
            prefix = request.scope.get("root_path", "") + self.prefix
            content_path = parse_content_path(path.removeprefix(prefix))
            info.above = await with_passwords(
                request.scope,
                partial(self.executor.run_directly, nearest_above, request, content_path),
            )

    async def respond(self, request: Request) -> ASGIApp:
        """Return the response, from the cache or from one call in the database executor.

        Raises `HTTPException`.
        """
        scope, method = request.scope, request.method
        path = decoded_path(scope)
        prefix = scope.get("root_path", "") + self.prefix
        if method not in READ_METHODS:
            if not (path.startswith(prefix) and has_routes()):
                return options_response(request)
            return await self._run(request, respond_with_route, path.removeprefix(prefix))
        if f"{path}/" == prefix:
            return redirect_with_slash(request)
        if not path.startswith(prefix):
            raise HTTPException(404, f"Content is below '{prefix}'.")
        key = CacheKey(path.removeprefix(prefix), method, prefers_json(request))
        info = request_info(scope)
        # Facts about a file are not cached, nor is the file sent for them.
        is_query = scope["query_string"] and facts_query(scope) is not None
        entry = None if is_query else self.cache.get(key)
        if entry is None:
            content_path = parse_content_path(key.path)
            info.route = "stream_content" if content_path.path else "list_distributions"
            uncached = partial(self._respond_uncached, request, content_path, key)
            if is_query or not self.stale.has(request, key):
                return await self._abandonment.run(request, uncached)
            return await self._respond_or_stale(request, content_path, key, uncached)
        info.route = "stream_content"
        entry.fill(info)
        if entry.is_public:
            entry.fill_permitted(info)
            return entry.result.respond(request)
        content_path = parse_content_path(key.path)
        if self.stale.allowed and not _needs_database(entry):
            # Still valid, but the executor refuses calls in an outage.
            return await self._respond_stale(request, content_path, entry)
        run = partial(self._run, request, respond_from_cache, content_path, entry)
        return await self._abandonment.run(request, run)

    async def _run(self, request: Request, work: Callable[..., ASGIApp], *args: object) -> ASGIApp:
        """Run `work` in the executor, again after a password check if the guard needs one."""
        run = partial(self.executor.run_directly, work, request, *args)
        return await with_passwords(request.scope, run)

    async def _respond_uncached(
        self, request: Request, content_path: ContentPath, key: CacheKey
    ) -> ASGIApp:
        cache_write = CacheWrite(self.cache, key)
        distribution_entry = self.cache.find(content_path)
        is_directory = key.path.endswith("/")
        if (
            distribution_entry is not None
            and distribution_entry.can_batch
            and facts_query(request.scope) is None
            and not (is_directory or key.json)
        ):
            batched = BatchedRequest(request, content_path, cache_write, self.executor.context())
            response = await self._batcher.submit(distribution_entry, batched)
            if response is not None:
                return response
        response = await self._run(request, respond, content_path, cache_write)
        if cache_write.listing is not None:
            self.stale.keep_listing(request, key, cache_write.listing)
        return response

    async def _respond_or_stale(
        self,
        request: Request,
        content_path: ContentPath,
        key: CacheKey,
        uncached: Callable[[], Coroutine[Any, Any, ASGIApp]],
    ) -> ASGIApp:
        """Return the response of `uncached`, or a stale one if the database does not answer."""
        task: asyncio.Task[ASGIApp] | None = None
        try:
            while True:
                entry = self.stale.get(request, key)
                if entry is not None and not _needs_database(entry):
                    return await self._respond_stale(request, content_path, entry)
                if task is None:
                    task = asyncio.create_task(uncached())
                    task.add_done_callback(_retrieve)
                elif task.done():
                    return task.result()
                await asyncio.wait([task], timeout=STALE_POLL)
        finally:
            if task is not None:
                task.cancel()

    async def _respond_stale(
        self, request: Request, content_path: ContentPath, entry: CacheEntry
    ) -> ASGIApp:
        info = request_info(request.scope)
        info.route = "stream_content"
        self.stale.note()
        entry.fill(info)
        if not entry.is_public:
            # Not in the executor, whose threads may wait for the database.
            respond = partial(respond_from_cache, request, content_path, entry)
            response = await to_thread.run_sync(respond)
            info.stale_seconds = self.stale.seconds
            return response
        entry.fill_permitted(info)
        info.stale_seconds = self.stale.seconds
        return entry.result.respond(request)

    async def _respond_batch(
        self, distribution_entry: DistributionEntry, batch: Sequence["BatchedRequest"]
    ) -> list[ASGIApp | None]:
        return await self.executor.run_directly(respond_batch, distribution_entry, batch)


def respond(
    request: Request, content_path: ContentPath, cache_write: CacheWrite | None = None
) -> ASGIApp:
    """Return the response to a GET or HEAD of `content_path`, and cache it. Blocks."""
    cache_write = cache_write or CacheWrite(
        ResponseCache(0, 0), CacheKey(content_path.path, request.method, json=False)
    )
    resolved = cache_write.resolve(content_path) or find_distribution(content_path)
    if resolved is None:
        return list_base_paths(request, content_path)
    return _respond_at(request, content_path, resolved, cache_write)


@dataclass(frozen=True)
class BatchedRequest:
    """A request that is handled in a batch."""

    request: Request
    content_path: ContentPath
    cache_write: CacheWrite
    context: Context
    """Context variables of the request, such as the correlation id for the log."""


def respond_batch(
    distribution_entry: DistributionEntry, batch: Sequence[BatchedRequest]
) -> list[ASGIApp | None]:
    """Return the responses to requests for files of one distribution, with one query. Blocks.

    None for a request that `respond` has to handle by itself: there is no such file, or its
    response failed.
    """
    for batched in batch:
        batched.cache_write.begin(distribution_entry)
    if not distribution_entry.is_cached or distribution_entry.source is None:  # just invalidated
        return [None] * len(batch)
    # One copy for the whole batch: only this thread uses it.
    resolved = distribution_entry.resolve(distribution_entry.distribution.base_path)
    paths = [distribution_entry.path_below(batched.content_path.path) for batched in batch]
    found = files(distribution_entry.source, list(set(paths)))
    return [
        _respond_with(batched, replace(resolved, path=path, file=found[path]))
        if path in found
        else None
        for batched, path in zip(batch, paths, strict=True)
    ]


def _respond_with(batched: BatchedRequest, resolved: ResolvedPath) -> ASGIApp | None:
    try:
        return batched.context.run(
            _respond_at, batched.request, batched.content_path, resolved, batched.cache_write
        )
    except Exception:
        return None


def _respond_at(
    request: Request, content_path: ContentPath, resolved: ResolvedPath, cache_write: CacheWrite
) -> ASGIApp:
    app = app_for(resolved.distribution)
    is_plugin_route, _ = matching_route(app, request, resolved)
    with authorized(request, content_path, resolved):
        cache_write.snapshot(resolved.distribution)
        serving = app(request, resolved)
        if _asks_how_to_use(request, resolved):
            return how_to_use_response(serving)
        if is_plugin_route:
            return DistributionRoutes(serving)
        try:
            response = serving.respond()
        except HTTPException as error:
            cache_write.store(serving, error)
            raise
        cache_write.store(serving, response)
        return response


def _asks_how_to_use(request: Request, resolved: ResolvedPath) -> bool:
    """Return whether the request is for the page of `?use`, before the root of any class."""
    query = facts_query(request.scope) if not resolved.path else None
    return query is not None and query[0] == USE


def respond_with_route(request: Request, path: str) -> ASGIApp:
    """Return the response of a plugin route to a method other than GET and HEAD. Blocks.

    `path` is below the content prefix. Raises `HTTPException` 405 if no route has the method.
    """
    content_path = parse_content_path(path)
    resolved = find_distribution(content_path)
    if resolved is None:
        return options_response(request)
    app = app_for(resolved.distribution)
    is_plugin_route, methods = matching_route(app, request, resolved)
    if not is_plugin_route:
        return options_response(request, methods)
    with authorized(request, content_path, resolved):
        return DistributionRoutes(app(request, resolved))


def options_response(request: Request, methods: Iterable[str] = ()) -> Response:
    """Return the response to OPTIONS: the allowed methods, including `methods` of plugin routes.

    Raises `HTTPException` 405, with the same `Allow` header, for any other method.
    """
    allow = {"Allow": ", ".join(sorted({*READ_METHODS, "OPTIONS", *methods}))}
    if request.method == "OPTIONS":
        # The same for every path, so it discloses nothing; browsers check the headers of the GET.
        return Response(headers=allow | PREFLIGHT if settings.CONTENT_STAR_CORS else allow)
    raise HTTPException(405, f"Method {request.method} is not allowed.", allow)


@contextmanager
def authorized(
    request: Request, content_path: ContentPath, resolved: ResolvedPath
) -> Iterator[None]:
    """Authorize the request, then run the block in the distribution's domain. Blocks.

    Raises as `authorize` where the content guard denies the request.
    """
    distribution = resolved.distribution
    info = request_info(request.scope)
    info.domain, info.pulp_type = distribution.pulp_domain.name, distribution.pulp_type
    info.vary = vary_headers(distribution.content_guard)
    with with_domain(distribution.pulp_domain):
        authorize(request, distribution, content_path.path)
        info.surrogate_keys = surrogate_keys(distribution)
        yield


def respond_from_cache(request: Request, content_path: ContentPath, entry: CacheEntry) -> ASGIApp:
    """Return the cached response once the content guard permits it. Blocks.

    The plugin's app may replace it if `asks_plugin`.
    """
    info = request_info(request.scope)
    domain = entry.distribution_entry.distribution.pulp_domain
    with with_domain(domain):
        distribution = entry.distribution_entry.distribution_for_guard()
        authorize(request, distribution, content_path.path)
        if not entry.asks_plugin:
            entry.fill_permitted(info)
            return entry.result.respond(request)
        resolved = entry.distribution_entry.resolve(content_path.path)
        info.surrogate_keys = surrogate_keys(resolved.distribution)
        app = app_for(resolved.distribution)(request, resolved)
        app.entry = entry
        return app.respond()


def _retrieve(task: asyncio.Task[ASGIApp]) -> None:
    """Retrieve the exception of a lookup that a stale response replaces, or asyncio logs it."""
    if not task.cancelled():
        task.exception()


def _needs_database(entry: CacheEntry) -> bool:
    """Return whether the cached response cannot be authorized without the database."""
    guard = entry.distribution_entry.distribution.content_guard
    return entry.asks_plugin or (guard is not None and needs_database(guard))


def nearest_above(request: Request, content_path: ContentPath) -> str:
    """Return the decoded path of the nearest directory above one that is not found. Blocks.

    Empty without one, as in a domain that does not exist. Distributions that the index conceals are
    not named, and the content guard decides again.
    """
    path = decoded_path(request.scope)
    resolved, base_path = find_distribution(content_path), content_path.path
    if resolved is not None:
        base_path = resolved.distribution.base_path
        with authorized(request, content_path, resolved):
            nearest = app_for(resolved.distribution)(request, resolved).nearest_directory()
        if nearest is not None:
            root = path[: len(path) - len(resolved.path)].rstrip("/")
            return f"{root}/{nearest}"
    try:
        domain = find_domain(content_path)
    except HTTPException:
        return ""
    indexes = (f"{prefix}/" for prefix in prefixes(base_path) if prefix != base_path)
    above = list(takewhile(partial(has_base_paths, domain), indexes))
    return path[: len(path) - len(content_path.path)] + (above[-1] if above else "")


def list_base_paths(request: Request, content_path: ContentPath) -> ASGIApp:
    """Return a listing of the base paths below `content_path`, which is above all distributions.

    Raises `HTTPException` 404 if there are none, except for the root, which may be empty.
    """
    path = decoded_path(request.scope)
    domain = find_domain(content_path)
    is_root = not content_path.path
    prefix = content_path.path if is_root or path.endswith("/") else f"{content_path.path}/"
    if not is_root and not has_base_paths(domain, prefix):
        raise HTTPException(404, f"No distribution has the base path of '{content_path.path}'.")
    if not path.endswith("/"):
        return redirect_with_slash(request)
    refuse_facts(request.scope)
    page = page_query(request)
    if preferred_form(request) == "page":
        return VaryOnAccept(distributions_page(request, domain, prefix))
    if request.method == "HEAD":
        return VaryOnAccept(head_for(request))
    entries = [DirectoryEntry(name) for name in next_segments(domain, prefix, page)]
    return VaryOnAccept(listing_for(request, entries, is_root=is_root))
