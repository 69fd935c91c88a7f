"""Entries of the response cache: of distributions, and of responses below them."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Model
from django.db.models.base import ModelState
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from pulpcore.content_star.request_info import BodySource, RequestInfo
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.resolve.distribution import ResolvedPath
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.responses.artifact import ArtifactResponse
from pulpcore.content_star.responses.immediate import ResponseHead
from pulpcore.plugin.models import Distribution


class CacheKey(NamedTuple):
    """Key of a cached response: the properties of a request that select it."""

    path: str
    """Below the content prefix, normalized and decoded: domain, base path and relative path."""

    method: str
    json: bool
    """Whether the client prefers JSON."""


class RedirectEntry:
    """A redirect to the same path with a slash at its end; the query is the request's own."""

    def respond(self, request: Request) -> ASGIApp:
        return redirect_with_slash(request)


@dataclass(frozen=True)
class NotFoundEntry:
    """An error response, 404 in general: there is no content at the path, or it cannot be sent."""

    status: int
    detail: str

    def respond(self, request: Request) -> ASGIApp:
        """Raise `HTTPException`."""
        raise HTTPException(self.status, self.detail)


@dataclass(frozen=True)
class ResponseEntry:
    """A response that depends on nothing of the request it was made for but its `CacheKey`."""

    response: ASGIApp

    def respond(self, request: Request) -> ASGIApp:
        return self.response


CachedResult = RedirectEntry | NotFoundEntry | ResponseEntry


@dataclass(frozen=True)
class Dependencies:
    """Validity of a response: the rows it was made from, beside the distribution's, and its age."""

    ids: tuple[UUID, ...] = ()
    """Primary keys of the rows whose change invalidates the response."""

    max_age: float = float("inf")
    """Seconds for which the response is valid if none of the rows changes."""


@dataclass(eq=False)
class DistributionEntry:
    """Cache entry of a distribution and of the content that it serves."""

    distribution: Distribution
    """The detail object, with that of its guard and the relations `find_distribution` loads."""

    source: ContentSource | None
    """The publication or repository version; None if it cannot be cached, or is not loaded yet."""

    has_nested: bool
    """Whether other base paths begin with this one: paths below need a look-up in the database."""

    can_batch: bool = False
    """Whether requests may be batched: `source` is known, and neither a content guard nor code of
    the plugin, which might be slow, decides about them."""

    is_cached: bool = False
    """True while the cache holds the entry. Entries of responses below it are valid as long."""

    def resolve(self, path: str) -> ResolvedPath:
        """Return the same as `find_distribution` for `path`, which is below the domain.

        The objects are copies, since plugins' code may change them.
        """
        distribution = copy_instance(self.distribution)
        source = self.source and ContentSource(
            copy_instance(self.source.publication), copy_instance(self.source.version)
        )
        return ResolvedPath(distribution, self.path_below(path), source)

    def path_below(self, path: str) -> str:
        """Return `path`, which is below the domain, relative to the base path."""
        return path[len(self.distribution.base_path) :].lstrip("/")

    def distribution_for_guard(self) -> Distribution:
        """Return the distribution with a copy of its content guard, whose code may change it."""
        distribution = copy.copy(self.distribution)
        distribution.content_guard = copy_instance(self.distribution.content_guard)
        return distribution

    def ids(self) -> Iterator[UUID | None]:
        """Yield the primary keys of the rows whose change invalidates the entry."""
        distribution = self.distribution
        yield distribution.pk
        yield distribution.pulp_domain_id
        yield distribution.content_guard_id
        yield distribution.remote_id
        yield distribution.repository_id
        yield distribution.repository_version_id
        yield distribution.publication_id
        source = self.source or ContentSource(None, None)
        versions = [distribution.repository_version, source.version]
        for publication in (distribution.publication, source.publication):
            if publication:
                yield publication.pk
                versions.append(publication.repository_version)
        for version in versions:
            if version:
                yield version.pk
                yield version.repository_id


@dataclass(slots=True, eq=False, weakref_slot=True)
class CacheEntry:
    """Cache entry of a response, with the `RequestInfo` fields that the layers set for it."""

    result: CachedResult
    distribution_entry: DistributionEntry
    asks_plugin: bool
    """Whether the plugin's code is called first on each request and may respond instead."""

    source: BodySource | None
    surrogate_keys: tuple[str, ...]
    vary: tuple[str, ...]
    ids: tuple[UUID, ...]
    expires: float
    """Time of expiry on the monotonic clock, in seconds."""

    file: str | None = None
    """SHA-256 of the in-memory file that the response sends, if it has one."""

    heads: dict[int, ResponseHead] = field(default_factory=dict)
    """Complete headers of responses by status, filled in by `FastPath`."""

    last_moved: float = float("-inf")
    """When the entry was last moved to the end of the LRU order, as `expires`."""

    is_public: bool = field(init=False)
    """Whether every client gets this response: no content guard and no plugin's code decides."""

    public_file: ArtifactResponse | None = field(init=False)
    """The response, if it is a file and public."""

    domain: str = field(init=False)
    pulp_type: str = field(init=False)

    def __post_init__(self) -> None:
        # Read once: attributes of Django models are slow.
        distribution = self.distribution_entry.distribution
        self.is_public = not self.asks_plugin and distribution.content_guard_id is None
        response = (
            self.result.response
            if self.is_public and isinstance(self.result, ResponseEntry)
            else None
        )
        self.public_file = response if isinstance(response, ArtifactResponse) else None
        self.domain, self.pulp_type = distribution.pulp_domain.name, distribution.pulp_type

    def fill(self, info: RequestInfo) -> None:
        """Set the fields that do not depend on the content guard's permission."""
        info.domain = self.domain
        info.pulp_type = self.pulp_type
        info.vary = self.vary

    def fill_permitted(self, info: RequestInfo) -> None:
        """Set the fields that are set only after the content guard permitted the request."""
        info.surrogate_keys = self.surrogate_keys
        info.source = self.source
        info.cache = "HIT"


def copy_instance(instance: Any) -> Any:
    """Copy a model instance and the related instances that it has loaded, recursively.

    Copies share no mutable state with the original. `copy.copy` goes through pickling and takes
    five times as long, and every request that is not sent from memory copies some six instances.
    """
    if not isinstance(instance, Model):
        return instance
    kind: Any = type(instance)
    copied = kind.__new__(kind)
    values = vars(copied)
    values.update(vars(instance))
    # Holds the primary key of every content unit of a repository version; loaded on access.
    values.pop("content_ids", None)
    state = values["_state"] = ModelState()
    vars(state).update(vars(instance._state))
    state.fields_cache = {
        name: copy_instance(related) for name, related in instance._state.fields_cache.items()
    }
    return copied
