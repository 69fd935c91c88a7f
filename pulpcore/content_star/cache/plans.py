"""What paths resolve to: distributions, and the answers below them.

All is in memory and bounded, and what was used longest ago goes first. An entry names the database
rows that it was made from by their ids; who hears of a change calls `forget` with ids. Entries are
used only while everything that was committed until a moment ago is known to have been heard of
(`proved`): the listener sees to that.

A slow request might keep what it read before a change that has been told while it was reading. The
`generation`, a number that grows with each change, is noted before the first read, and nothing is
kept when it is another one by then.
"""

import copy
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Model
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from pulpcore.app.models import Distribution
from pulpcore.content_star.exchange import AnswerSource, Exchange
from pulpcore.content_star.locate import Address, Place, prefixes
from pulpcore.content_star.lookup import Source
from pulpcore.content_star.redirect import with_slash

log = logging.getLogger(__name__)

# Seconds for which it holds that all changes have been heard of. No request that starts later than
# this after a commit is answered from before it, in whatever process.
BOUND = 1.0

STARTING = "starting"
TURNED_OFF = "turned off"

# Distributions that are kept at most: some 20 KiB each.
MAX_DISTRIBUTIONS = 2000


class Key(NamedTuple):
    """What of a request an answer depends on, if it may be kept at all."""

    path: str
    """Below the content prefix, decoded: domain, base path and relative path."""

    method: str
    json: bool
    """Whether the client prefers JSON."""


class WithSlash:
    """The answer to a client that forgot the slash at the end: its query goes along."""

    def again(self, request: Request) -> ASGIApp:
        return with_slash(request)


@dataclass(frozen=True)
class Nothing:
    """The answer that there is nothing, or nothing that can be served."""

    status: int
    detail: str

    def again(self, request: Request) -> ASGIApp:
        """Raise `HTTPException`."""
        raise HTTPException(self.status, self.detail)


@dataclass(frozen=True)
class Ready:
    """A response that holds nothing of the request that it was made for."""

    response: ASGIApp

    def again(self, request: Request) -> ASGIApp:
        return self.response


Answer = WithSlash | Nothing | Ready


@dataclass(frozen=True)
class MadeFrom:
    """What an answer was made from, beside the distribution and what that serves."""

    ids: tuple[UUID, ...] = ()
    """Rows by whose change it may become another one."""

    seconds: float = float("inf")
    """How long it is good for if none of them changes."""


@dataclass(eq=False)
class DistributionPlan:
    """What is known of a distribution."""

    distribution: Distribution
    """The detail object, its guard's detail object and what else `locate.RELATED` names."""

    source: Source | None
    """What it serves; None if that cannot be kept, and has to be looked up each time."""

    nested: bool
    """Whether other distributions' base paths go on from its own: these have to be asked for."""

    alive: bool = False
    """True while it is kept, which it is until one of its rows changes. Its answers end with it."""

    def place(self, path: str) -> Place:
        """Return what `locate` would; `path` is below the domain.

        With objects of its own, since plugins' code may change them.
        """
        distribution = own(self.distribution)
        source = self.source and Source(own(self.source.publication), own(self.source.version))
        return Place(distribution, path[len(distribution.base_path) :].lstrip("/"), source)

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
        source = self.source or Source(None, None)
        versions = [distribution.repository_version, source.version]
        for publication in (distribution.publication, source.publication):
            if publication:
                yield publication.pk
                versions.append(publication.repository_version)
        for version in versions:
            if version:
                yield version.pk
                yield version.repository_id


@dataclass(slots=True, eq=False)
class Kept:
    """An answer, and what the layers said of it."""

    answer: Answer
    plan: DistributionPlan
    asks_plugin: bool
    """Whether the plugin has to be asked first, each time, if it has another answer."""

    source: AnswerSource | None
    tags: tuple[str, ...]
    vary: tuple[str, ...]
    ids: tuple[UUID, ...]
    expires: float
    """On the monotonic clock, in seconds."""

    size: int = 0
    """Bytes of the file that are in memory."""

    @property
    def is_open(self) -> bool:
        """Whether it can be given to anyone without asking a guard or a plugin."""
        return not self.asks_plugin and self.plan.distribution.content_guard_id is None

    def tell(self, exchange: Exchange) -> None:
        """Fill in what is known of the exchange before anyone has been let in."""
        distribution = self.plan.distribution
        exchange.domain = distribution.pulp_domain.name
        exchange.pulp_type = distribution.pulp_type
        exchange.vary = self.vary

    def tell_permitted(self, exchange: Exchange) -> None:
        """Fill in what only those are told whom the guard has let in."""
        exchange.tags = self.tags
        exchange.source = self.source


@dataclass
class Plans:
    """The plans of a process. May be used from any thread."""

    capacity: int
    """Answers that are kept at most; with 0 nothing is kept."""

    capacity_bytes: int
    """Bytes of files that are kept at most."""

    problem: str | None = STARTING
    """Why nothing is kept, for the log, probes and metrics; None while things are."""

    generation: int = 0
    bytes: int = 0
    _proved: float = float("-inf")
    _answers: OrderedDict[Key, Kept] = field(default_factory=OrderedDict)
    _places: OrderedDict[tuple[str, str], DistributionPlan] = field(default_factory=OrderedDict)
    _by_id: dict[UUID, set[Key | tuple[str, str]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def proved(self, moment: float) -> None:
        """Note that all that was committed until `moment`, on the monotonic clock, is known."""
        self._proved = moment

    @property
    def usable(self) -> bool:
        """Whether what is kept may be used, and something be kept."""
        return time.monotonic() - self._proved < BOUND

    def recall(self, key: Key) -> Kept | None:
        """Return the answer to requests with `key`, if it is known."""
        kept = self._answers.get(key)
        if kept is None:
            return None
        now = time.monotonic()
        if now - self._proved >= BOUND:
            return None
        with self._lock:
            if not kept.plan.alive or kept.expires < now:
                self._drop(key)
                return None
            if key in self._answers:
                self._answers.move_to_end(key)
        return kept

    def find(self, address: Address) -> DistributionPlan | None:
        """Return the plan of the distribution that `address` is below, if it is known."""
        if not self.usable:
            return None
        for prefix in reversed(prefixes(address.path)):
            place = (address.domain, prefix)
            plan = self._places.get(place)
            if plan is not None:
                with self._lock:
                    if place in self._places:
                        self._places.move_to_end(place)
                return None if plan.nested else plan
        return None

    def keep_place(self, plan: DistributionPlan, generation: int) -> DistributionPlan:
        """Keep a plan that was begun in `generation`, unless things have changed since.

        Return the one that is kept: it may be another one that knows as much.
        """
        distribution = plan.distribution
        place = (distribution.pulp_domain.name, distribution.base_path)
        with self._lock:
            if not self._may_keep(generation):
                return plan
            known = self._places.get(place)
            if known and (known.source or not plan.source):
                return known
            self._drop_place(place)
            self._places[place] = plan
            plan.alive = True
            self._index(place, plan.ids())
            while len(self._places) > min(MAX_DISTRIBUTIONS, self.capacity):
                self._drop_place(next(iter(self._places)))
        return plan

    def keep(self, key: Key, kept: Kept, generation: int) -> None:
        """Keep an answer that was begun in `generation`, unless things have changed since."""
        with self._lock:
            if not self._may_keep(generation) or not kept.plan.alive:
                return
            self._drop(key)
            self._answers[key] = kept
            self._index(key, kept.ids)
            while len(self._answers) > self.capacity:
                self._drop(next(iter(self._answers)))

    def grow(self, key: Key, kept: Kept, size: int) -> bool:
        """Count `size` bytes that an answer wants to hold; False if it must not."""
        with self._lock:
            if self._answers.get(key) is not kept or size > self.capacity_bytes:
                return False
            kept.size += size
            self.bytes += size
            while self.bytes > self.capacity_bytes:
                self._drop(next(iter(self._answers)))
            return self._answers.get(key) is kept

    def forget(self, ids: Iterable[UUID]) -> None:
        """Drop what was made from the rows with `ids`, which have been changed."""
        with self._lock:
            self.generation += 1
            for each in ids:
                for key in self._by_id.pop(each, ()):
                    if isinstance(key, Key):
                        self._drop(key)
                    else:
                        self._drop_place(key)

    def forget_all(self) -> None:
        """Drop everything: anything may have changed."""
        with self._lock:
            self.generation += 1
            for plan in self._places.values():
                plan.alive = False
            for each in (self._places, self._answers, self._by_id):
                each.clear()
            self.bytes = 0

    def forget_above(self, domain: UUID, base_path: str) -> None:
        """Drop the distributions whose base path `base_path` goes on from."""
        above = set(prefixes(base_path))
        with self._lock:
            self.generation += 1
            for place, plan in list(self._places.items()):
                if place[1] in above and plan.distribution.pulp_domain_id == domain:
                    self._drop_place(place)

    def set_problem(self, problem: str | None) -> None:
        """Note why plans cannot be used, or that they can; logged when it is news."""
        if problem == self.problem:
            return
        self.problem = problem
        if problem is None:
            log.info("Content: what paths resolve to is kept in memory.")
        else:
            log.warning("Content: every request is looked up in the database: %s.", problem)

    def _may_keep(self, generation: int) -> bool:
        return self.capacity > 0 and self.generation == generation and self.usable

    def _index(self, key: Key | tuple[str, str], ids: Iterable[UUID | None]) -> None:
        for each in ids:
            if each is not None:
                self._by_id.setdefault(each, set()).add(key)

    def _unindex(self, key: Key | tuple[str, str], ids: Iterable[UUID | None]) -> None:
        for each in ids:
            if each is not None and (keys := self._by_id.get(each)) is not None:
                keys.discard(key)
                if not keys:
                    del self._by_id[each]

    def _drop(self, key: Key) -> None:
        if (kept := self._answers.pop(key, None)) is not None:
            self.bytes -= kept.size
            self._unindex(key, kept.ids)

    def _drop_place(self, place: tuple[str, str]) -> None:
        if (plan := self._places.pop(place, None)) is not None:
            plan.alive = False
            self._unindex(place, plan.ids())


def own(instance: Any) -> Any:
    """Copy an object with all that has been loaded around it: copies share nothing that changes."""
    if not isinstance(instance, Model):
        return instance
    mine = copy.copy(instance)
    # Loaded when a plugin asks for it: the id of every content unit of a repository version.
    vars(mine).pop("content_ids", None)
    cache = mine._state.fields_cache
    for name, related in cache.items():
        cache[name] = own(related)
    return mine
