"""What of an answer that has just been made is worth keeping, and may be."""

import time
from functools import partial
from typing import ClassVar, Protocol
from weakref import ref

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp

from pulpcore.app.models import Distribution, Domain
from pulpcore.content_star.cache.entries import (
    Answer,
    CacheEntry,
    CacheKey,
    Dependencies,
    DistributionEntry,
    NotFoundEntry,
    RedirectEntry,
    ResponseEntry,
    own,
)
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.listings.negotiation import VaryOnAccept
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.resolve.distribution import ResolvedPath
from pulpcore.content_star.resolve.paths import ContentPath
from pulpcore.content_star.responses.artifact import ArtifactRedirect, ArtifactResponse
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.memory import InMemoryFile


class ServingApp(Protocol):
    """The parts of a `DistributionApp` by which an answer of it may be kept."""

    request: Request
    distribution: Distribution
    cacheable: ClassVar[bool]
    dependencies: Dependencies | None

    @property
    def asks_plugin(self) -> bool: ...

    @property
    def overrides_find_content(self) -> bool: ...


class CacheWrite:
    """The plan of an answer that is being made. Its methods block."""

    def __init__(self, cache: ResponseCache, key: CacheKey) -> None:
        self.cache = cache
        self.key = key

    def resolve(self, content_path: ContentPath) -> ResolvedPath | None:
        """Return the place of `address`, if its distribution is known. Begins anew."""
        self.generation = self.cache.generation
        self.distribution_entry: DistributionEntry | None = self.cache.find(content_path)
        self.is_new = self.distribution_entry is None
        return (
            self.distribution_entry.resolve(content_path.path) if self.distribution_entry else None
        )

    def resume(self, distribution_entry: DistributionEntry) -> None:
        """Begin anew, with a plan that is known and, if it is alive afterwards, up to date."""
        self.generation = self.cache.generation
        self.distribution_entry = distribution_entry
        self.is_new = False

    def begin(self, distribution: Distribution) -> None:
        """Note the distribution as it is, before the code of plugins sees it."""
        if self.distribution_entry is None and self.cache.usable:
            self.distribution_entry = DistributionEntry(
                own(distribution), None, _is_nested(distribution)
            )

    def keep(self, app: ServingApp, result: ASGIApp | HTTPException) -> None:
        """Keep what `app` has answered or raised, and the distribution, as far as they may be."""
        if self.distribution_entry is None:
            return
        asked: ContentSource | None = vars(app).get("source")
        if self.distribution_entry.source is None and asked and _may_keep(app.distribution, asked):
            source = ContentSource(own(asked.publication), own(asked.version))
            distribution_entry = self.distribution_entry
            self.distribution_entry = DistributionEntry(
                distribution_entry.distribution,
                source,
                distribution_entry.nested,
                _is_shared(app, asked),
            )
            self.is_new = True
        if self.is_new:
            self.distribution_entry = self.cache.add_distribution(
                self.distribution_entry, self.generation
            )
        if asked and self.distribution_entry.source is None:
            return
        answer = _answer_of(result)
        if answer and app.cacheable and app.dependencies:
            request_info(app.request.scope).cache = "MISS"
            self._keep(app, answer)

    def _keep(self, app: ServingApp, answer: Answer) -> None:
        assert self.distribution_entry is not None and app.dependencies is not None
        info = request_info(app.request.scope)
        entry = CacheEntry(
            answer,
            self.distribution_entry,
            app.asks_plugin,
            info.source,
            info.tags,
            info.vary,
            app.dependencies.ids,
            time.monotonic() + app.dependencies.seconds,
        )
        self.cache.keep(self.key, entry, self.generation)
        if isinstance(answer, ResponseEntry):
            self._remember_file(entry, answer.response)

    def _remember_file(self, entry: CacheEntry, response: ASGIApp) -> None:
        response = _inside(response)
        # Not one that leaves the bytes to another server.
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
    # An answer that its own file refers to would stay until the garbage collector comes by.
    answer = entry()
    return None if answer is None else cache.share(key, answer, sha256, data)


def _is_nested(distribution: Distribution) -> bool:
    domain: Domain = distribution.pulp_domain
    below = Distribution.objects.filter(
        pulp_domain=domain, base_path__startswith=f"{distribution.base_path}/"
    )
    return bool(below.exists())


def _is_shared(app: ServingApp, source: ContentSource) -> bool:
    if not app.cacheable or source.version is None:
        return False
    if app.distribution.content_guard_id is not None:
        return False
    has_handler = type(app.distribution).content_handler is not Distribution.content_handler
    return not (has_handler or app.overrides_find_content)


def _may_keep(distribution: Distribution, source: ContentSource) -> bool:
    """Tell whether it is known by what rows `source` may become another one."""
    resolve = type(distribution).get_repository_publication_and_version
    if resolve is not Distribution.get_repository_publication_and_version:
        return False
    return all(each is None or each.complete for each in (source.publication, source.version))


def _answer_of(result: ASGIApp | HTTPException) -> Answer | None:
    """Take out what a request may have left in a response; None if that cannot be told."""
    if isinstance(result, HTTPException):
        return None if result.headers else NotFoundEntry(result.status_code, result.detail)
    if type(result) is RedirectResponse:
        return RedirectEntry()
    if isinstance(_inside(result), ArtifactResponse | ArtifactRedirect):
        return ResponseEntry(result)
    return None


def _inside(response: ASGIApp) -> ASGIApp:
    return response.response if isinstance(response, VaryOnAccept) else response
