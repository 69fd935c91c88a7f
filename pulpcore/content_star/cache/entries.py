"""What is kept of a distribution, and of an answer below it."""

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

from pulpcore.app.models import Distribution
from pulpcore.content_star.request_info import AnswerSource, RequestInfo
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.resolve.distribution import ResolvedPath
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.responses.artifact import ArtifactResponse


class CacheKey(NamedTuple):
    """What of a request an answer depends on, if it may be kept at all."""

    path: str
    """Below the content prefix, normalized and decoded: domain, base path and relative path."""

    method: str
    json: bool
    """Whether the client prefers JSON."""


class RedirectEntry:
    """The answer to a client that forgot the slash at the end: its query goes along."""

    def again(self, request: Request) -> ASGIApp:
        return redirect_with_slash(request)


@dataclass(frozen=True)
class NotFoundEntry:
    """The answer that there is nothing, or nothing that can be served."""

    status: int
    detail: str

    def again(self, request: Request) -> ASGIApp:
        """Raise `HTTPException`."""
        raise HTTPException(self.status, self.detail)


@dataclass(frozen=True)
class ResponseEntry:
    """A response that holds nothing of the request that it was made for."""

    response: ASGIApp

    def again(self, request: Request) -> ASGIApp:
        return self.response


Answer = RedirectEntry | NotFoundEntry | ResponseEntry


@dataclass(frozen=True)
class Dependencies:
    """What an answer was made from, beside the distribution and what that serves."""

    ids: tuple[UUID, ...] = ()
    """Rows by whose change it may become another one."""

    seconds: float = float("inf")
    """How long it is good for if none of them changes."""


@dataclass(eq=False)
class DistributionEntry:
    """What is known of a distribution."""

    distribution: Distribution
    """The detail object, with that of its guard and others that `find_distribution` loads."""

    source: ContentSource | None
    """What it serves; None if that cannot be kept, and has to be looked up each time."""

    nested: bool
    """Whether other distributions' base paths go on from its own: these have to be asked for."""

    is_shared: bool = False
    """Whether requests may be answered together: no guard and no code of the plugin, which might
    take its time, decides about them, and `source` is known."""

    alive: bool = False
    """True while it is kept, which it is until one of its rows changes. Its answers end with it."""

    def resolve(self, path: str) -> ResolvedPath:
        """Return what `find_distribution` would; `path` is below the domain.

        With objects of its own, since plugins' code may change them.
        """
        distribution = own(self.distribution)
        source = self.source and ContentSource(
            own(self.source.publication), own(self.source.version)
        )
        return ResolvedPath(distribution, self.path_below(path), source)

    def path_below(self, path: str) -> str:
        """Return `path`, which is below the domain, relative to the base path."""
        return path[len(self.distribution.base_path) :].lstrip("/")

    def guarded(self) -> Distribution:
        """Return the distribution for its guard to decide, which has an object of its own."""
        distribution = copy.copy(self.distribution)
        distribution.content_guard = own(self.distribution.content_guard)
        return distribution

    def ids(self) -> Iterator[UUID | None]:
        """Name the rows that it depends on."""
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
    """An answer, and what the layers said of it."""

    answer: Answer
    distribution_entry: DistributionEntry
    asks_plugin: bool
    """Whether the plugin has to be asked first, each time, if it has another answer."""

    source: AnswerSource | None
    tags: tuple[str, ...]
    vary: tuple[str, ...]
    ids: tuple[UUID, ...]
    expires: float
    """On the monotonic clock, in seconds."""

    file: str | None = None
    """The sha256 of the file whose bytes it holds in memory, if it does."""

    headers: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Headers of answers that are complete, by status."""

    moved: float = float("-inf")
    """When it was last put behind the others, to go after them; as `expires`."""

    is_open: bool = field(init=False)
    """Whether it can be given to anyone without asking a guard or a plugin."""

    file_for_all: ArtifactResponse | None = field(init=False)
    """The file, if it is one that can be given to anyone."""

    domain: str = field(init=False)
    pulp_type: str = field(init=False)

    def __post_init__(self) -> None:
        # Looked up once: Django's objects take their time.
        distribution = self.distribution_entry.distribution
        self.is_open = not self.asks_plugin and distribution.content_guard_id is None
        response = (
            self.answer.response
            if self.is_open and isinstance(self.answer, ResponseEntry)
            else None
        )
        self.file_for_all = response if isinstance(response, ArtifactResponse) else None
        self.domain, self.pulp_type = distribution.pulp_domain.name, distribution.pulp_type

    def tell(self, info: RequestInfo) -> None:
        """Fill in what is known of the exchange before anyone has been let in."""
        info.domain = self.domain
        info.pulp_type = self.pulp_type
        info.vary = self.vary

    def fill_permitted(self, info: RequestInfo) -> None:
        """Fill in what only those are told whom the guard has let in."""
        info.tags = self.tags
        info.source = self.source
        info.cache = "HIT"


def own(instance: Any) -> Any:
    """Copy an object with all that has been loaded around it: copies share nothing that changes.

    As `copy.copy`, which goes through pickling and takes five times as long: every request that is
    not answered from memory copies some six objects.
    """
    if not isinstance(instance, Model):
        return instance
    kind: Any = type(instance)
    mine = kind.__new__(kind)
    values = vars(mine)
    values.update(vars(instance))
    # Loaded when a plugin asks for it: the id of every content unit of a repository version.
    values.pop("content_ids", None)
    state = values["_state"] = ModelState()
    vars(state).update(vars(instance._state))
    state.fields_cache = {name: own(each) for name, each in instance._state.fields_cache.items()}
    return mine
