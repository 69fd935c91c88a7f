"""The content endpoint: locate, authorize, and let the distribution's app respond."""

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
from pulpcore.content_star.cache.cdn_headers import PREFLIGHT, tags_of, vary_of
from pulpcore.content_star.cache.entries import DistributionPlan, Kept, Key
from pulpcore.content_star.cache.policy import Draft
from pulpcore.content_star.cache.store import Plans
from pulpcore.content_star.database.batching import Together
from pulpcore.content_star.database.executor import Door
from pulpcore.content_star.distributions.registry import has_routes
from pulpcore.content_star.listings.base_paths import next_segments
from pulpcore.content_star.listings.directory import Entry
from pulpcore.content_star.listings.negotiation import Varying, prefers_json
from pulpcore.content_star.listings.pagination import AT_ALL, window_of
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.plugin_host.context import DistributionRoutes, taken_by_route
from pulpcore.content_star.plugin_host.discovery import app_for
from pulpcore.content_star.request_info import exchange_of
from pulpcore.content_star.resolve.content import files
from pulpcore.content_star.resolve.distribution import Place, find_domain, locate
from pulpcore.content_star.resolve.paths import Address, decoded_path, parse_address
from pulpcore.content_star.resolve.redirect import with_slash
from pulpcore.content_star.responses.websockets import refuse

READS = ("GET", "HEAD")

# Requests that are answered in one trip at most: the last of them waits for all.
GROUP = 32


class Content:
    """ASGI endpoint for everything below `CONTENT_PATH_PREFIX`."""

    def __init__(self, door: Door, prefix: str, plans: Plans | None = None) -> None:
        """`prefix` of the URLs' paths begins and ends with a slash. Without `plans` nothing is
        kept."""
        self.door = door
        self.prefix = prefix
        self.plans = plans or Plans(0, 0)
        self.together = Together(self._respond_together, GROUP)

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
            return await self._run(request, respond_live, path.removeprefix(prefix))
        if f"{path}/" == prefix:
            return with_slash(request)
        if not path.startswith(prefix):
            raise HTTPException(404, f"Content is below '{prefix}'.")
        key = Key(path.removeprefix(prefix), method, prefers_json(request))
        exchange = exchange_of(scope)
        kept = self.plans.recall(key)
        if kept is None:
            address = parse_address(key.path)
            exchange.route = "stream_content" if address.path else "list_distributions"
            return await self._respond_anew(request, address, key)
        exchange.route = "stream_content"
        kept.tell(exchange)
        if kept.is_open:
            kept.tell_permitted(exchange)
            return kept.answer.again(request)
        return await self._run(request, respond_again, parse_address(key.path), kept)

    async def _run(self, request: Request, work: Callable[..., ASGIApp], *args: object) -> ASGIApp:
        """Do `work` for the request behind the door; its guard may need a password checked."""
        trip = partial(self.door.run, work, request, *args)
        return await with_passwords(request.scope, trip)

    async def _respond_anew(self, request: Request, address: Address, key: Key) -> ASGIApp:
        draft = Draft(self.plans, key)
        plan = self.plans.find(address)
        is_directory = key.path.endswith("/")
        if plan is not None and plan.is_shared and not (is_directory or key.json):
            asked = Asked(request, address, draft, self.door.context())
            response = await self.together.ask(plan, asked)
            if response is not None:
                return response
        return await self._run(request, respond, address, draft)

    async def _respond_together(
        self, plan: DistributionPlan, group: Sequence["Asked"]
    ) -> list[ASGIApp | None]:
        return await self.door.run(respond_together, plan, group)


def respond(request: Request, address: Address, draft: Draft | None = None) -> ASGIApp:
    """Return the response to a GET or HEAD of `address`, and keep what `draft` says. Blocks."""
    draft = draft or Draft(Plans(0, 0), Key(address.path, request.method, json=False))
    place = draft.place(address) or locate(address)
    if place is None:
        return browse(request, address)
    return _respond_at(request, address, place, draft)


@dataclass(frozen=True)
class Asked:
    """A request that is answered together with others."""

    request: Request
    address: Address
    draft: Draft
    context: Context
    """In which it is answered, and what goes wrong is logged."""


def respond_together(plan: DistributionPlan, group: Sequence[Asked]) -> list[ASGIApp | None]:
    """Answer requests to one distribution with one query for all their files. Blocks.

    None for those that are better asked alone, by `respond`: there is no such file, or something
    went wrong, which then is that request's alone.
    """
    for each in group:
        each.draft.resume(plan)
    if not plan.alive or plan.source is None:  # forgotten meanwhile
        return [None] * len(group)
    place = plan.place(plan.distribution.base_path)  # one for all: only this thread has it
    paths = [plan.path_below(each.address.path) for each in group]
    found = files(plan.source, list(set(paths)))
    return [
        _respond_with(each, replace(place, path=path, file=found[path])) if path in found else None
        for each, path in zip(group, paths, strict=True)
    ]


def _respond_with(asked: Asked, place: Place) -> ASGIApp | None:
    try:
        return asked.context.run(_respond_at, asked.request, asked.address, place, asked.draft)
    except Exception:
        return None


def _respond_at(request: Request, address: Address, place: Place, draft: Draft) -> ASGIApp:
    app = app_for(place.distribution)
    is_live, _ = taken_by_route(app, request, place)
    with permitted(request, address, place):
        draft.begin(place.distribution)
        serving = app(request, place)
        if is_live:
            return DistributionRoutes(serving)
        try:
            response = serving.respond()
        except HTTPException as error:
            draft.keep(serving, error)
            raise
        draft.keep(serving, response)
        return response


def respond_live(request: Request, path: str) -> ASGIApp:
    """Return the response to another method than GET or HEAD, which only routes take. Blocks.

    `path` is below the content prefix.
    """
    address = parse_address(path)
    place = locate(address)
    if place is None:
        return refusal(request)
    app = app_for(place.distribution)
    is_live, methods = taken_by_route(app, request, place)
    if not is_live:
        return refusal(request, methods)
    with permitted(request, address, place):
        return DistributionRoutes(app(request, place))


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
def permitted(request: Request, address: Address, place: Place) -> Iterator[None]:
    """Ask the guard of what was found, and be in its domain meanwhile. Blocks."""
    distribution = place.distribution
    exchange = exchange_of(request.scope)
    exchange.domain, exchange.pulp_type = distribution.pulp_domain.name, distribution.pulp_type
    exchange.vary = vary_of(distribution.content_guard)
    with with_domain(distribution.pulp_domain):
        authorize(request, distribution, address.path)
        exchange.tags = tags_of(distribution)
        yield


def respond_again(request: Request, address: Address, kept: Kept) -> ASGIApp:
    """Return the kept response, if the guard lets the request pass and the plugin has no other.

    Blocks.
    """
    exchange = exchange_of(request.scope)
    domain = kept.plan.distribution.pulp_domain
    with with_domain(domain):
        authorize(request, kept.plan.guarded(), address.path)
        if not kept.asks_plugin:
            kept.tell_permitted(exchange)
            return kept.answer.again(request)
        place = kept.plan.place(address.path)
        exchange.tags = tags_of(place.distribution)
        app = app_for(place.distribution)(request, place)
        app.kept = kept
        return app.respond()


def browse(request: Request, address: Address) -> ASGIApp:
    """List the base paths that go on from `address`.

    Raises `HTTPException` 404 if none does, but for the root, which is there when it is empty.
    """
    path = decoded_path(request.scope)
    domain = find_domain(address)
    is_root = not address.path
    prefix = address.path if is_root or path.endswith("/") else f"{address.path}/"
    if not is_root and not next_segments(domain, prefix, AT_ALL):
        raise HTTPException(404, f"No distribution has the base path of '{address.path}'.")
    if not path.endswith("/"):
        return with_slash(request)
    window = window_of(request)
    if request.method == "HEAD":
        return Varying(head_for(request))
    entries = [Entry(name) for name in next_segments(domain, prefix, window)]
    return Varying(listing_for(request, entries, is_root=is_root))
