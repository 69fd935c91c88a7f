"""Views of content: resolve the path, authorize, and call the distribution's app. They block.

The endpoint (`content.py`) calls them in the database executor.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from django.conf import settings
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pulpcore.content_star.auth.guards import authorize
from pulpcore.content_star.cache.cdn_headers import PREFLIGHT, surrogate_keys, vary_headers
from pulpcore.content_star.cache.entries import CacheEntry, CacheKey, DistributionEntry
from pulpcore.content_star.cache.policy import CacheWrite
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.distributions.use_page import how_to_use_response
from pulpcore.content_star.listings.base_paths import has_base_paths, next_segments
from pulpcore.content_star.listings.distributions import distributions_page, facts_by_segment
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.facts_query import USE, facts_query, refuse_facts
from pulpcore.content_star.listings.json import json_listing
from pulpcore.content_star.listings.negotiation import VaryOnAccept, preferred_form
from pulpcore.content_star.listings.pagination import page_query
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.plugin_host.context import DistributionRoutes, matching_route
from pulpcore.content_star.plugin_host.discovery import app_for
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
from pulpcore.content_star.upstream import with_domain

READ_METHODS = ("GET", "HEAD")


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
    distribution, source = resolved.distribution, resolved.source
    return [
        _respond_with(batched, ResolvedPath(distribution, path, source, found[path]))
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
    domain = distribution.pulp_domain  # read once: attributes of Django models are slow
    info = request_info(request.scope)
    info.domain, info.pulp_type = domain.name, distribution.pulp_type
    info.vary = vary_headers(distribution.content_guard)
    with with_domain(domain):
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
        raise HTTPException(404, f"No distribution's base path begins with '{content_path.path}'.")
    if not path.endswith("/"):
        return redirect_with_slash(request)
    refuse_facts(request.scope)
    page, form = page_query(request), preferred_form(request)
    if form == "page":
        return VaryOnAccept(distributions_page(request, domain, prefix))
    if request.method == "HEAD":
        return VaryOnAccept(head_for(request))
    names = next_segments(domain, prefix, page)
    entries = [DirectoryEntry(name) for name in names]
    if form == "json":
        facts = facts_by_segment(domain, prefix, names)
        return VaryOnAccept(json_listing(request, entries, facts))
    return VaryOnAccept(listing_for(request, entries, is_root=is_root))
