"""The content endpoint: respond from the cache, or by a view in the database executor."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.auth.guards import needs_database
from pulpcore.content_star.auth.password_checks import with_passwords
from pulpcore.content_star.cache.entries import CacheEntry, CacheKey, DistributionEntry
from pulpcore.content_star.cache.policy import CacheWrite
from pulpcore.content_star.cache.stale import StaleResponses
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.database.availability import availability
from pulpcore.content_star.database.batching import Batcher
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.distributions.registry import has_routes
from pulpcore.content_star.listings.facts_query import facts_query
from pulpcore.content_star.listings.negotiation import preferred_form, prefers_json
from pulpcore.content_star.remote.pull_through.models import RemoteRefused
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.paths import (
    ContentPath,
    decoded_path,
    parse_content_path,
)
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.responses.disconnect import PendingRequests
from pulpcore.content_star.responses.websockets import refuse
from pulpcore.content_star.views import (
    READ_METHODS,
    BatchedRequest,
    nearest_above,
    options_response,
    respond,
    respond_batch,
    respond_from_cache,
    respond_with_route,
)

# Seconds between two looks whether the database has gone away during a lookup.
STALE_POLL = 0.1

# Seconds that the page of a 404 waits for the directory that it links to.
ABOVE_TIMEOUT = 0.2

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
        pages: DatabaseExecutor | None = None,
    ) -> None:
        """`prefix` of the URLs' paths begins and ends with a slash. Default: no cache.

        `pages` is the executor for directories, indexes and facts about a file, whose pages take
        longer than files. Default: `executor`.
        """
        self.executor = executor
        self.pages = pages or executor
        self.prefix = prefix
        self.cache = cache or ResponseCache(0, 0)
        self.stale = stale or StaleResponses(self.cache, 0)
        self._batcher = Batcher(self._respond_batch, MAX_BATCH, executor.timeout / 2)
        self._pending_requests = PendingRequests()

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
        """Find the nearest directory above, which the page of a 404 names; programs get none.

        Only if the database answers at once: the 404 may be cached, and wait for nothing else.
        """
        if request.method not in READ_METHODS or preferred_form(request) != "page":
            return
        if availability.down_since is not None or not self.pages.has_free_thread:
            return
        info = request_info(request.scope)
        with suppress(Exception):  # the answer stays 404, with a link to the index
            path = decoded_path(request.scope)
            prefix = request.scope.get("root_path", "") + self.prefix
            content_path = parse_content_path(path.removeprefix(prefix))
            run = partial(self.pages.run_directly, nearest_above, request, content_path)
            async with asyncio.timeout(ABOVE_TIMEOUT):
                info.above = await with_passwords(request.scope, run)

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
            run = partial(self._run, request, respond_with_route, path.removeprefix(prefix))
            return await self._pending_requests.run(request, run)
        if f"{path}/" == prefix:
            return redirect_with_slash(request)
        if not path.startswith(prefix):
            raise HTTPException(404, f"Content is below '{prefix}'.")
        key = CacheKey(path.removeprefix(prefix), method, prefers_json(request))
        info = request_info(scope)
        # Facts about a file are not cached, nor is the file sent for them.
        is_query = facts_query(scope) is not None
        entry = None if is_query else self.cache.get(key)
        if entry is None:
            content_path = parse_content_path(key.path)
            info.route = "stream_content" if content_path.path else "list_distributions"
            run = partial(self._respond_uncached, request, content_path, key)
            if not is_query and self.stale.has(request, key):
                run = partial(self._respond_or_stale, request, content_path, key, run)
            return await self._pending_requests.run(request, run)
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
        return await self._pending_requests.run(request, run)

    async def _run(self, request: Request, work: Callable[..., ASGIApp], *args: object) -> ASGIApp:
        """Run `work` in the executor, again after a password check if the guard needs one."""
        is_page = request.scope["path"].endswith("/") or facts_query(request.scope) is not None
        executor = self.pages if is_page else self.executor
        run = partial(executor.run_directly, work, request, *args)
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
        self, distribution_entry: DistributionEntry, batch: Sequence[BatchedRequest]
    ) -> list[ASGIApp | None]:
        return await self.executor.run_directly(respond_batch, distribution_entry, batch)


def _retrieve(task: asyncio.Task[ASGIApp]) -> None:
    """Retrieve the exception of a lookup that a stale response replaces, or asyncio logs it."""
    if not task.cancelled():
        task.exception()


def _needs_database(entry: CacheEntry) -> bool:
    """Return whether the cached response cannot be authorized without the database."""
    guard = entry.distribution_entry.distribution.content_guard
    return entry.asks_plugin or (guard is not None and needs_database(guard))
