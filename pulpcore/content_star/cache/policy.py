"""Cache policy: which responses are cached, and what invalidates them."""

import time
from functools import partial
from typing import ClassVar, Protocol
from weakref import ref

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.cache.entries import (
    CachedResult,
    CacheEntry,
    CacheKey,
    Dependencies,
    DistributionEntry,
    NotFoundEntry,
    RedirectEntry,
    ResponseEntry,
    copy_instance,
)
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.listings.negotiation import VaryOnAccept
from pulpcore.content_star.listings.stream import ListingPage, NamesPage
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.resolve.distribution import ResolvedPath
from pulpcore.content_star.resolve.paths import ContentPath
from pulpcore.content_star.responses.artifact import ArtifactRedirect, ArtifactResponse
from pulpcore.content_star.responses.conditional import Validators, evaluate
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.memory import InMemoryFile
from pulpcore.plugin.models import Distribution, Domain

# Bytes of a listing that is kept: some 6,000 entries of a list of links, which is compressed.
MAX_LISTING = 128 * 1024


class ServingApp(Protocol):
    """The attributes of a `DistributionApp` that the cache policy reads."""

    request: Request
    distribution: Distribution
    cacheable: ClassVar[bool]
    dependencies: Dependencies | None
    is_listing: bool

    @property
    def asks_plugin(self) -> bool: ...

    @property
    def overrides_find_content(self) -> bool: ...


class CacheWrite:
    """Write of one response, and of its distribution, to the cache. Methods block.

    `resolve` or `begin` notes the cache's generation before the request's first query, and may be
    called again when the request starts over. `store` then adds the entries.
    """

    def __init__(self, cache: ResponseCache, key: CacheKey) -> None:
        self.cache = cache
        self.key = key
        self.listing: CacheEntry | None = None
        """Entry of a listing, if `store` was called with one that needs no database."""

    def resolve(self, content_path: ContentPath) -> ResolvedPath | None:
        """Start the write; return the resolved path if its distribution is cached."""
        self.generation = self.cache.generation
        self.distribution_entry: DistributionEntry | None = self.cache.find(content_path)
        self.is_new = self.distribution_entry is None
        return (
            self.distribution_entry.resolve(content_path.path) if self.distribution_entry else None
        )

    def begin(self, distribution_entry: DistributionEntry) -> None:
        """Start the write with a known distribution.

        The caller checks `is_cached` afterwards: if true, the entry is up to date.
        """
        self.generation = self.cache.generation
        self.distribution_entry = distribution_entry
        self.is_new = False

    def snapshot(self, distribution: Distribution) -> None:
        """Copy the distribution before plugins' code can change it, unless it is cached."""
        if self.distribution_entry is None and self.cache.usable:
            self.distribution_entry = DistributionEntry(
                copy_instance(distribution), None, _has_nested(distribution)
            )

    def store(self, app: ServingApp, result: ASGIApp | HTTPException) -> None:
        """Cache the response or exception of `app`, and the distribution, as the policy allows."""
        if self.distribution_entry is None:
            return
        source: ContentSource | None = vars(app).get("source")
        if (
            self.distribution_entry.source is None
            and source
            and _can_cache_source(app.distribution, source)
        ):
            distribution_entry = self.distribution_entry
            self.distribution_entry = DistributionEntry(
                distribution_entry.distribution,
                ContentSource(copy_instance(source.publication), copy_instance(source.version)),
                distribution_entry.has_nested,
                _can_batch(app, source),
            )
            self.is_new = True
        if self.is_new:
            self.distribution_entry = self.cache.add_distribution(
                self.distribution_entry, self.generation
            )
        if source and self.distribution_entry.source is None:
            return
        listing = None if isinstance(result, HTTPException) else _listing(app, result)
        if listing is not None:
            self.listing = self._entry(app, ResponseEntry(listing), Dependencies())
        cached_result = _cached_result(result)
        if cached_result and app.cacheable and app.dependencies:
            request_info(app.request.scope).cache = "MISS"
            self._store_result(app, cached_result)

    def _store_result(self, app: ServingApp, result: CachedResult) -> None:
        assert app.dependencies is not None
        entry = self._entry(app, result, app.dependencies)
        self.cache.add(self.key, entry, self.generation)
        if isinstance(result, ResponseEntry):
            self._use_in_memory_file(entry, result.response)

    def _entry(
        self, app: ServingApp, result: CachedResult, dependencies: Dependencies
    ) -> CacheEntry:
        assert self.distribution_entry is not None
        info = request_info(app.request.scope)
        return CacheEntry(
            result,
            self.distribution_entry,
            app.asks_plugin,
            info.source,
            info.surrogate_keys,
            info.vary,
            dependencies.ids,
            time.monotonic() + dependencies.max_age,
        )

    def _use_in_memory_file(self, entry: CacheEntry, response: ASGIApp) -> None:
        response = _unwrap(response)
        # The exact class: `SendfileResponse` leaves the bytes to another server.
        if type(response) is ArtifactResponse and isinstance(response.source, LocalSource):
            sha256 = response.validators.etag.strip('"')
            response.source = InMemoryFile(
                response.source,
                response.size,
                sha256,
                partial(_share, self.cache, self.key, ref(entry), sha256),
            )


def _share(
    cache: ResponseCache, key: CacheKey, entry: ref[CacheEntry], sha256: str, data: bytes
) -> bytes | None:
    # A weak reference: a cycle of entry, response and file would wait for the garbage collector.
    cached = entry()
    return None if cached is None else cache.share(key, cached, sha256, data)


def _has_nested(distribution: Distribution) -> bool:
    domain: Domain = distribution.pulp_domain
    below = Distribution.objects.filter(
        pulp_domain=domain, base_path__startswith=f"{distribution.base_path}/"
    )
    return bool(below.exists())


def _can_batch(app: ServingApp, source: ContentSource) -> bool:
    if not app.cacheable or source.version is None:
        return False
    if app.distribution.content_guard_id is not None:
        return False
    has_handler = type(app.distribution).content_handler is not Distribution.content_handler
    return not (has_handler or app.overrides_find_content)


def _can_cache_source(distribution: Distribution, source: ContentSource) -> bool:
    """Return whether all rows that may change `source` are known."""
    resolve = type(distribution).get_repository_publication_and_version
    if resolve is not Distribution.get_repository_publication_and_version:
        return False
    return all(row is None or row.complete for row in (source.publication, source.version))


def _listing(app: ServingApp, response: ASGIApp) -> ASGIApp | None:
    """Return the response if it is a listing of an immutable source that was read completely."""
    if not app.cacheable or app.overrides_find_content or not app.is_listing:
        return None
    listing = _unwrap(response)
    match listing:
        case ListingPage():
            is_small = listing.rows.is_complete and listing.rows.deflated <= MAX_LISTING
            return response if is_small else None
        case NamesPage():
            return response if listing.is_complete and listing.size <= MAX_LISTING else None
        case Response() if listing.status_code == 200 and len(listing.body) <= MAX_LISTING:
            return VaryOnAccept(ConditionalText(listing))
    return None


class ConditionalText:
    """ASGI application that sends a rendered listing again: 200, 304 or 412."""

    def __init__(self, response: Response) -> None:
        self.response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response, headers = self.response, Headers(raw=self.response.raw_headers)
        status = None
        if etag := headers.get("ETag"):
            status = evaluate(scope["method"], Headers(scope=scope), Validators(etag, None))
        if status is not None:
            omitted = ("content-length", "content-type", "content-encoding")
            kept = {name: value for name, value in headers.items() if name not in omitted}
            response = Response(None, status, kept)
        await response(scope, receive, send)


def _cached_result(result: ASGIApp | HTTPException) -> CachedResult | None:
    """Strip the request's own parts from a response; None if it cannot be cached."""
    if isinstance(result, HTTPException):
        return None if result.headers else NotFoundEntry(result.status_code, result.detail)
    if type(result) is RedirectResponse:
        return RedirectEntry()
    if isinstance(_unwrap(result), ArtifactResponse | ArtifactRedirect):
        return ResponseEntry(result)
    return None


def _unwrap(response: ASGIApp) -> ASGIApp:
    return response.response if isinstance(response, VaryOnAccept) else response
