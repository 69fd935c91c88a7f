"""Where passwords of content requests are checked: in threads of their own, and in turns.

Guards ask for the user in the middle of a trip through the database door, and a password takes 100
to 250 ms of CPU there: clients with wrong ones would hold the few threads that look up files. So
the trip ends with `CheckNeeded`, the password is checked by `PasswordChecks`, and the trip is made
again with the outcome.

A source is the client's address as the server reports it (behind a proxy that the server trusts,
that of `X-Forwarded-For`), or its /64 network with IPv6. It has one check under way, and its names
take turns, so that no source and no name holds up another one. Failures are answered late, the more
there were; a right password is not, since an address may be that of a NAT or a proxy.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

from anyio.lowlevel import RunVar
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pulpcore.content_star.database.executor import DatabaseExecutor

T = TypeVar("T")

# Threads, each with a database connection once it is needed: one source leaves one to the others.
THREADS = 2

# Checks that wait for the one under way, of a name and of a source; and sources that wait for a
# thread. At 0.2 s each, the last one waits for 3 s, 13 s and 26 s.
MAX_WAITING_PER_NAME = 16
MAX_WAITING_PER_SOURCE = 64
MAX_WAITING_SOURCES = 256

# Seconds after which a client may try again that was not let in to wait.
RETRY_AFTER = 5

# Failures of a source that are answered at once, as people mistype; seconds by which each further
# one makes the answer later, up to the most; and seconds in which one of them is forgotten.
FREE_FAILURES = 3
PAUSE = 0.25
MAX_PAUSE = 4.0
FORGET_AFTER = 10.0

# Sources whose failures are remembered, the latest: about a megabyte.
MAX_SOURCES = 4096

_KEY = "content_star.passwords"

Outcome = Any
"""The user whose password was right, or the exception that says why there is none."""


class CheckNeeded(BaseException):
    """Ends a trip through the database door whose user has to be authenticated first.

    No `Exception`: guards of plugins may catch all of those, and take it for a denial.
    """

    def __init__(self, name: str, password: str, check: Callable[[], Outcome]) -> None:
        """`check` blocks, for as long as it takes to check a password."""
        super().__init__("A password has to be checked.")
        self.name = name
        self.credentials = (name, password)
        self.check = check


def outcome_of(scope: Scope, name: str, password: str, check: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of `check`, which was done before this trip where that can be.

    Raises `CheckNeeded` to have it done, if somebody waits for that: `with_passwords`.
    """
    checked: dict[tuple[str, str], Outcome] | None = scope.get(_KEY)
    if checked is None:
        return check()
    if (name, password) not in checked:
        raise CheckNeeded(name, password, check)
    return checked[name, password]


async def with_passwords(scope: Scope, trip: Callable[[], Awaitable[T]]) -> T:
    """Make a trip that may need passwords checked, for the request of `scope`.

    It is made again after each check, so it has to be idempotent up to there.
    Raises `HTTPException` 429 or 503 where too many checks wait.
    """
    checked = scope.setdefault(_KEY, {})
    while True:
        try:
            return await trip()
        except CheckNeeded as needed:
            checked[needed.credentials] = await _current.get().check(scope, needed)


class PasswordChecks:
    """The threads, and who waits for them. For one event loop."""

    def __init__(self) -> None:
        self._door = DatabaseExecutor(THREADS, "password-db")
        self._turns = Turns()
        self._failures = Failures()

    async def check(self, scope: Scope, needed: CheckNeeded) -> Outcome:
        """Return the outcome of a check, a failure late."""
        source = source_of(scope)
        async with AsyncExitStack() as turns:
            for key, waiting in (
                (f"{source} {needed.name}", MAX_WAITING_PER_NAME),
                (source, MAX_WAITING_PER_SOURCE),
            ):
                await turns.enter_async_context(self._turns.turn(key, waiting))
            await turns.enter_async_context(
                self._turns.turn("", MAX_WAITING_SOURCES, at_once=THREADS, status=503)
            )
            outcome = await self._door.run(needed.check)
        if isinstance(outcome, Exception):
            await asyncio.sleep(self._failures.pause(source))
        return outcome

    async def close(self) -> None:
        """End the threads."""
        await self._door.close()


class _Queue:
    def __init__(self, at_once: int) -> None:
        self.semaphore = asyncio.Semaphore(at_once)
        self.length = 0


class Turns:
    """Queues by key, first come, first served."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def turn(
        self, key: str, waiting: int, at_once: int = 1, status: int = 429
    ) -> AsyncIterator[None]:
        """Wait until fewer than `at_once` others have their turn, and keep it for the block.

        Raises `HTTPException` with `status` if `waiting` others wait already.
        """
        queue = self._queues.setdefault(key, _Queue(at_once))
        if queue.length >= at_once + waiting:
            detail = "Too many passwords are waiting to be checked."
            raise HTTPException(status, detail, {"Retry-After": str(RETRY_AFTER)})
        queue.length += 1
        try:
            async with queue.semaphore:
                yield
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[key]

    def __len__(self) -> int:
        return len(self._queues)


class Failures:
    """How often the password was wrong lately, by source."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def pause(self, source: str) -> float:
        """Count a failure, and return the seconds after which it is answered."""
        now = self._clock()
        count, since = self._sources.pop(source, (0.0, now))
        count = max(0.0, count - (now - since) / FORGET_AFTER) + 1
        self._sources[source] = (min(count, FREE_FAILURES + MAX_PAUSE / PAUSE), now)
        if len(self._sources) > MAX_SOURCES:
            self._sources.popitem(last=False)
        return min(max(0.0, count - FREE_FAILURES) * PAUSE, MAX_PAUSE)

    def __len__(self) -> int:
        return len(self._sources)


def source_of(scope: Scope) -> str:
    """Return the client's address, or with IPv6 its /64 network, which one client may have all of.

    Empty where the server knows none, as at a Unix socket.
    """
    host: str = scope["client"][0] if scope.get("client") else ""
    try:
        content_path = ip_address(host)
    except ValueError:
        return host
    if not isinstance(content_path, IPv6Address):
        return host
    if content_path.ipv4_mapped:
        return str(content_path.ipv4_mapped)
    return str(ip_network((int(content_path), 64), strict=False))


_current: RunVar[PasswordChecks] = RunVar("content_star_password_checks")


@asynccontextmanager
async def password_checks() -> AsyncIterator[None]:
    """Check passwords in this event loop until the block ends."""
    checks = PasswordChecks()
    token = _current.set(checks)
    try:
        yield
    finally:
        await checks.close()
        _current.reset(token)
