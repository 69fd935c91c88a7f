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
    DistributionPlan,
    Kept,
    Key,
    MadeFrom,
    Nothing,
    Ready,
    WithSlash,
    own,
)
from pulpcore.content_star.cache.store import Plans
from pulpcore.content_star.listings.negotiation import Varying
from pulpcore.content_star.request_info import exchange_of
from pulpcore.content_star.resolve.content import Source
from pulpcore.content_star.resolve.distribution import Place
from pulpcore.content_star.resolve.paths import Address
from pulpcore.content_star.responses.artifact import ArtifactRedirect, ArtifactResponse
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.memory import RememberedFile


class ServingApp(Protocol):
    """The parts of a `DistributionApp` by which an answer of it may be kept."""

    request: Request
    distribution: Distribution
    keeps_answers: ClassVar[bool]
    made_from: MadeFrom | None

    @property
    def asks_plugin(self) -> bool: ...

    @property
    def finds_content(self) -> bool: ...


class Draft:
    """The plan of an answer that is being made. Its methods block."""

    def __init__(self, plans: Plans, key: Key) -> None:
        self.plans = plans
        self.key = key

    def place(self, address: Address) -> Place | None:
        """Return the place of `address`, if its distribution is known. Begins anew."""
        self.generation = self.plans.generation
        self.plan: DistributionPlan | None = self.plans.find(address)
        self.is_new = self.plan is None
        return self.plan.place(address.path) if self.plan else None

    def resume(self, plan: DistributionPlan) -> None:
        """Begin anew, with a plan that is known and, if it is alive afterwards, up to date."""
        self.generation = self.plans.generation
        self.plan = plan
        self.is_new = False

    def begin(self, distribution: Distribution) -> None:
        """Note the distribution as it is, before the code of plugins sees it."""
        if self.plan is None and self.plans.usable:
            self.plan = DistributionPlan(own(distribution), None, _is_nested(distribution))

    def keep(self, app: ServingApp, result: ASGIApp | HTTPException) -> None:
        """Keep what `app` has answered or raised, and the distribution, as far as they may be."""
        if self.plan is None:
            return
        asked: Source | None = vars(app).get("source")
        if self.plan.source is None and asked and _may_keep(app.distribution, asked):
            source = Source(own(asked.publication), own(asked.version))
            plan = self.plan
            self.plan = DistributionPlan(
                plan.distribution, source, plan.nested, _is_shared(app, asked)
            )
            self.is_new = True
        if self.is_new:
            self.plan = self.plans.keep_place(self.plan, self.generation)
        if asked and self.plan.source is None:
            return
        answer = _answer_of(result)
        if answer and app.keeps_answers and app.made_from:
            exchange_of(app.request.scope).cache = "MISS"
            self._keep(app, answer)

    def _keep(self, app: ServingApp, answer: Answer) -> None:
        assert self.plan is not None and app.made_from is not None
        exchange = exchange_of(app.request.scope)
        kept = Kept(
            answer,
            self.plan,
            app.asks_plugin,
            exchange.source,
            exchange.tags,
            exchange.vary,
            app.made_from.ids,
            time.monotonic() + app.made_from.seconds,
        )
        self.plans.keep(self.key, kept, self.generation)
        if isinstance(answer, Ready):
            self._remember_file(kept, answer.response)

    def _remember_file(self, kept: Kept, response: ASGIApp) -> None:
        response = _inside(response)
        # Not one that leaves the bytes to another server.
        if type(response) is ArtifactResponse and isinstance(response.source, LocalSource):
            sha256 = response.validators.etag.strip('"')
            response.source = RememberedFile(
                response.source,
                response.size,
                sha256,
                partial(_share, self.plans, self.key, ref(kept), sha256),
            )


def _share(plans: Plans, key: Key, kept: ref[Kept], sha256: str, data: bytes) -> bytes | None:
    # An answer that its own file refers to would stay until the garbage collector comes by.
    answer = kept()
    return None if answer is None else plans.share(key, answer, sha256, data)


def _is_nested(distribution: Distribution) -> bool:
    domain: Domain = distribution.pulp_domain
    below = Distribution.objects.filter(
        pulp_domain=domain, base_path__startswith=f"{distribution.base_path}/"
    )
    return bool(below.exists())


def _is_shared(app: ServingApp, source: Source) -> bool:
    if not app.keeps_answers or source.version is None:
        return False
    if app.distribution.content_guard_id is not None:
        return False
    has_handler = type(app.distribution).content_handler is not Distribution.content_handler
    return not (has_handler or app.finds_content)


def _may_keep(distribution: Distribution, source: Source) -> bool:
    """Tell whether it is known by what rows `source` may become another one."""
    resolve = type(distribution).get_repository_publication_and_version
    if resolve is not Distribution.get_repository_publication_and_version:
        return False
    return all(each is None or each.complete for each in (source.publication, source.version))


def _answer_of(result: ASGIApp | HTTPException) -> Answer | None:
    """Take out what a request may have left in a response; None if that cannot be told."""
    if isinstance(result, HTTPException):
        return None if result.headers else Nothing(result.status_code, result.detail)
    if type(result) is RedirectResponse:
        return WithSlash()
    if isinstance(_inside(result), ArtifactResponse | ArtifactRedirect):
        return Ready(result)
    return None


def _inside(response: ASGIApp) -> ASGIApp:
    return response.response if isinstance(response, Varying) else response
