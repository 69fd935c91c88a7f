"""Runs the comparison: workers take items from a source and ask both servers."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pulpcore.content_star.cli.compare.client import Server, Servers
from pulpcore.content_star.cli.compare.comparison import Finding, compare
from pulpcore.content_star.cli.compare.errors import CannotCompare
from pulpcore.content_star.cli.compare.exchange import ETAG, Exchange, Request, Response
from pulpcore.content_star.cli.compare.listing import Listing
from pulpcore.content_star.cli.compare.results import Progress
from pulpcore.content_star.cli.compare.sources import Item, Source

MAX_AHEAD = 10_000
"""Items that may be done while an earlier one is not: they are remembered one by one."""

SAVE_SECONDS = 5.0
MAX_REPEATS = 3
MAX_RECHECKS = 1000
"""Faults for which the old server is asked again whether its content has changed."""

RANGE_SIZE = 64 * 1024
ON_DEMAND = "files on demand, which are only fetched with --fetch"
_REFUSED = (401, 403)


@dataclass
class Options:
    """Behaviour of a run."""

    concurrency: int
    seconds: float | None = None
    grace: float = 120.0
    """Seconds that requests under way have when the run is stopped."""
    fetch: bool = False
    ignored_headers: frozenset[str] = frozenset()


@dataclass
class _Path:
    """Facts of one path that its requests share."""

    as_user: bool = False
    on_demand: bool = False
    sha256: str = ""
    listing: Listing | None = None
    old_etag: str = ""
    new_etag: str = ""
    size: int = 0
    responses: list[Response] = field(default_factory=list)
    compared: list[tuple[Exchange, list[Finding]]] = field(default_factory=list)
    """Recorded when the item is done, so that an item that is repeated counts once."""


class Runner:
    """One run of the comparison."""

    def __init__(
        self,
        servers: Servers,
        source: Source,
        progress: Progress,
        options: Options,
        on_progress: Callable[[], object] = lambda: None,
    ) -> None:
        self.old, self.new = servers.old, servers.new
        self.source = source
        self.progress = progress
        self.results = progress.results
        self.options = options
        self.stopped = False
        """Whether no further item is taken: the time is up, or a signal has come."""
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        self._items = self._numbered(source.items())
        self._lock = asyncio.Lock()
        self._advanced = asyncio.Event()
        self._saved = time.monotonic()
        self._rechecks = 0
        self._credentials = bool(self.new.access.username)

    async def run(self) -> None:
        """Compare all items. Raises ServerUnavailable and CannotCompare; results are kept."""
        deadline = self.options.seconds
        timer = asyncio.get_running_loop().call_later(deadline, self.stop) if deadline else None
        workers = [asyncio.create_task(self._work()) for _ in range(self.options.concurrency)]
        try:
            await self._wait(asyncio.gather(*workers))
            self.progress.complete = not self.stopped
        finally:
            if timer:
                timer.cancel()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self.progress.save()

    async def _wait(self, working: "asyncio.Future[list[None]]") -> None:
        """Wait for the workers; when the run is stopped, for `grace` seconds at most."""
        either: set[asyncio.Future[Any]] = {working, self._stopping}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=self.options.grace)
        if working.done():
            working.result()

    def stop(self) -> None:
        """Take no further item; requests under way have `grace` seconds."""
        self.stopped = True
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def _work(self) -> None:
        while not self.stopped:
            async with self._lock:
                while len(self.progress.done) > MAX_AHEAD:
                    self._advanced.clear()
                    await self._advanced.wait()
                numbered = await self._next()
            if numbered is None:
                return
            number, item = numbered
            await self._compare_item(number, item)
            self.progress.finish(number, _key(item))
            self._advanced.set()
            self._on_progress()
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self._saved = time.monotonic()
                self.progress.save()

    async def _next(self) -> tuple[int, Item] | None:
        """Return the next item; None if there is none, or as soon as the run is stopped."""
        if self.stopped:
            return None
        taking = asyncio.create_task(_take(self._items))
        try:
            either: set[asyncio.Future[Any]] = {taking, self._stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return taking.result() if taking.done() else None
        finally:
            taking.cancel()

    async def _numbered(self, items: AsyncIterator[Item]) -> AsyncIterator[tuple[int, Item]]:
        """Yield the items that are not done yet. Raises CannotCompare if the source has changed."""
        number, expected = 0, self.progress.position - 1
        async for item in items:
            if number == expected and self.progress.key != _key(item):
                raise self._source_changed()
            if not self.progress.is_done(number):
                yield number, item
            number += 1
        if number < self.progress.position:
            raise self._source_changed()

    def _source_changed(self) -> CannotCompare:
        return CannotCompare(
            f"The requests have changed since {self.progress.path} was written, so the run cannot "
            "be continued: remove the file to start again."
        )

    async def _compare_item(self, number: int, item: Item) -> None:
        path = _Path()
        request = item.request
        if await self._probe_new_server(request, path, number):
            await self._compare(request, path, number)
            for variant in _variants(request, path) if item.with_variants else ():
                await self._compare(variant, path, number)
        for exchange, findings in path.compared:
            self.results.record(exchange, findings, (self.old.base_url, self.new.base_url))

    async def _probe_new_server(self, request: Request, path: _Path, number: int) -> bool:
        """Send HEAD to the new server, and note its headers; return whether to compare the path.

        A HEAD to the new server fetches nothing from a remote. To the old one it does.
        """
        head = Request(request.target, "HEAD")
        response = await self.new.ask(head)
        if response.status in _REFUSED and self._credentials:
            await self._compare(head, path, number)
            path.as_user = True
            response = await self.new.ask(head, as_user=True)
        path.on_demand = "fwd=" in response.header("cache-status")
        path.new_etag = response.header("etag")
        length = response.header("content-length")
        path.size = int(length) if length.isdecimal() else 0
        if path.on_demand and not self.options.fetch:
            self.results.skipped[ON_DEMAND] += 1
            return False
        return True

    async def _compare(self, request: Request, path: _Path, number: int) -> None:
        """Send a request to both servers, and note what differs."""
        for _ in range(MAX_REPEATS):
            exchange = await self._exchange(request, path, number)
            findings = compare(exchange, self.options.ignored_headers)
            if not await self._has_changed(exchange, findings, path):
                break
            self.results.changed += 1
        path.compared.append((exchange, findings))
        if request.method == "GET" and not request.headers:
            _remember(path, exchange)

    async def _exchange(self, request: Request, path: _Path, number: int) -> Exchange:
        """Ask both, one after the other, and each first in half of the cases.

        The second one finds the file in the page cache of the operating system.
        """

        async def ask(server: Server, etag: str) -> Response:
            return await server.ask(request, as_user=path.as_user, etag=etag)

        if number % 2:
            new = await ask(self.new, path.new_etag)
            old = await ask(self.old, path.old_etag)
        else:
            old = await ask(self.old, path.old_etag)
            new = await ask(self.new, path.new_etag)
        for response, server in ((old, self.old), (new, self.new)):
            if response.broken:
                await server.wait_until_reachable()
        is_whole_file = request.method == "GET" and old.status == 200
        exchange = Exchange(
            request,
            old,
            new,
            sha256=old.sha256 if is_whole_file else path.sha256,
            listing=path.listing,
            on_demand=path.on_demand,
            new_etag=new.header("etag") or path.new_etag,
        )
        if 300 < old.status < 400 and new.status == 404 and not request.is_directory:
            slashed = f"{request.path}/"
            followed = await self.old.ask(Request(slashed, "HEAD"), as_user=path.as_user)
            exchange.redirected_status = followed.status
        return exchange

    async def _has_changed(
        self, exchange: Exchange, findings: Iterable[Finding], path: _Path
    ) -> bool:
        """Return whether the old server now answers otherwise, because its content has changed."""
        faults = [finding for finding in findings if not finding.difference]
        both = (exchange.old, exchange.new)
        if not faults or any(each.broken or each.status >= 500 for each in both):
            return False
        self._rechecks += 1
        if self._rechecks > MAX_RECHECKS:
            return False
        request = exchange.request
        again = await self.old.ask(request, as_user=path.as_user, etag=path.old_etag)
        changes = compare(replace(exchange, new=again), self.options.ignored_headers)
        return any(not finding.difference for finding in changes)


async def _take(items: AsyncIterator[tuple[int, Item]]) -> tuple[int, Item] | None:
    return await anext(items, None)


def _remember(path: _Path, exchange: Exchange) -> None:
    """Keep what later requests of the path need of the responses to the GET."""
    old, new = exchange.old, exchange.new
    if old.broken or new.broken:
        return
    if old.status == 200:
        path.sha256 = old.sha256
        path.listing = old.listing
    path.old_etag, path.new_etag = old.header("etag"), new.header("etag")
    path.responses = [old, new]


def _variants(request: Request, path: _Path) -> Iterable[Request]:
    """Yield HEAD, a range and a conditional request for a path."""
    yield Request(request.target, "HEAD")
    if not path.responses or any(each.status != 200 or each.listing for each in path.responses):
        return
    if path.size:
        start = path.size // 2
        end = min(start + RANGE_SIZE, path.size) - 1
        yield Request(request.target, headers={"Range": f"bytes={start}-{end}"})
    if path.old_etag and path.new_etag:
        yield Request(request.target, headers={"If-None-Match": ETAG})


def _key(item: Item) -> str:
    request = item.request
    return hashlib.sha256(f"{request.method} {request.target}".encode()).hexdigest()[:16]
