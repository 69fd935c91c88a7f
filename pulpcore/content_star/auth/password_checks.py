"""Password checks of content requests, in a thread pool of their own, with rate limiting.

Guards read the user within a call of the database executor, and a password check takes 100 to
250 ms of CPU: clients with wrong passwords would occupy the few threads that look up content. So
the call ends with `CheckNeeded`, `PasswordChecks` checks the password, and the call is repeated
with the outcome.

Clients are distinguished by the address that the server reports (from `X-Forwarded-For` behind a
trusted proxy), with IPv6 by its /64 network. Each has one check at a time, and so has each of its
user names, in the order of arrival, so that no client and no name delays another one. Responses to
wrong passwords are delayed, by more with each failure; those to correct ones are not, since an
address may be that of a NAT or a proxy.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

from cachetools import LRUCache
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.resources import resources_of
from pulpcore.content_star.responses.headers import RETRY_AFTER

T = TypeVar("T")

# Threads, with a database connection each: one client never uses both.
THREADS = 2

# Queue lengths: checks of one user name, checks of one client, and clients waiting for a thread.
# At 0.2 s each, the last in a queue waits for 3 s, 13 s and 26 s.
MAX_WAITING_PER_NAME = 16
MAX_WAITING_PER_CLIENT = 64
MAX_WAITING_CLIENTS = 256

# Failures of a client without a delay, for typing errors; seconds of delay that each further one
# adds, up to the maximum; and seconds after which one failure no longer counts.
FREE_FAILURES = 3
PAUSE = 0.25
MAX_PAUSE = 4.0
FORGET_AFTER = 10.0

# Clients whose failures are counted, the most recent ones: about a megabyte.
MAX_CLIENTS = 4096

_KEY = "content_star.passwords"

Outcome = Any
"""The authenticated user, or the exception for rejected credentials."""


class CheckNeeded(BaseException):
    """Ends a call of the database executor whose password has to be checked first.

    Not an `Exception`: guards of plugins may catch those and deny the request.
    """

    def __init__(self, name: str, password: str, check: Callable[[], Outcome]) -> None:
        """`check` blocks for the duration of a password check."""
        super().__init__("The password has to be checked in another thread.")
        self.name = name
        self.credentials = (name, password)
        self.check = check


def outcome_of(scope: Scope, name: str, password: str, check: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of `check` for these credentials, from an earlier attempt if there is one.

    Raises `CheckNeeded` within `with_passwords`; elsewhere `check` runs here.
    """
    checked: dict[tuple[str, str], Outcome] | None = scope.get(_KEY)
    if checked is None:
        return check()
    if (name, password) not in checked:
        raise CheckNeeded(name, password, check)
    return checked[name, password]


async def with_passwords(scope: Scope, operation: Callable[[], Awaitable[T]]) -> T:
    """Await `operation` for the request of `scope`, and repeat it after each password check.

    Up to the check, it has to be idempotent.
    Raises `HTTPException` 429 or 503 if too many checks are queued.
    """
    checked = scope.setdefault(_KEY, {})
    while True:
        try:
            return await operation()
        except CheckNeeded as needed:
            checks = resources_of(scope).password_checks
            checked[needed.credentials] = await checks.check(scope, needed)


class PasswordChecks:
    """Thread pool for password checks and its queues. For one event loop."""

    def __init__(self) -> None:
        self._executor = DatabaseExecutor(THREADS, "password-db")
        self._turns = Turns()
        self._failures = Failures()

    async def check(self, scope: Scope, needed: CheckNeeded) -> Outcome:
        """Return the outcome of a check; a failure is returned after a delay.

        Raises `HTTPException` 429 or 503 if a queue is full.
        """
        client = client_network(scope)
        async with AsyncExitStack() as turns:
            for key, waiting in (
                (f"{client} {needed.name}", MAX_WAITING_PER_NAME),
                (client, MAX_WAITING_PER_CLIENT),
            ):
                await turns.enter_async_context(self._turns.turn(key, waiting))
            await turns.enter_async_context(
                self._turns.turn("", MAX_WAITING_CLIENTS, at_once=THREADS, status=503)
            )
            outcome = await self._executor.run(needed.check)
        if isinstance(outcome, Exception):
            await asyncio.sleep(self._failures.pause(client))
        return outcome

    async def close(self) -> None:
        """Shut the thread pool down."""
        await self._executor.close()


class _Queue:
    def __init__(self, at_once: int) -> None:
        self.semaphore = asyncio.Semaphore(at_once)
        self.length = 0


class Turns:
    """FIFO queues by key."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def turn(
        self, key: str, waiting: int, at_once: int = 1, status: int = 429
    ) -> AsyncIterator[None]:
        """Wait for one of the `at_once` slots of a queue, and hold it for the block.

        Raises `HTTPException` with `status` if `waiting` others are queued already.
        """
        queue = self._queues.setdefault(key, _Queue(at_once))
        if queue.length >= at_once + waiting:
            detail = "Too many password checks are queued. Try again later."
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
    """Counter of recent wrong passwords, by client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: LRUCache[str, tuple[float, float]] = LRUCache(MAX_CLIENTS)

    def pause(self, client: str) -> float:
        """Count a failure, and return the seconds by which its response is delayed."""
        now = self._clock()
        count, since = self._clients.pop(client, (0.0, now))
        count = max(0.0, count - (now - since) / FORGET_AFTER) + 1
        self._clients[client] = (min(count, FREE_FAILURES + MAX_PAUSE / PAUSE), now)
        return min(max(0.0, count - FREE_FAILURES) * PAUSE, MAX_PAUSE)

    def __len__(self) -> int:
        return len(self._clients)


def client_network(scope: Scope) -> str:
    """Return the client's address, or with IPv6 its /64 network, which one client may own.

    Empty if the server reports none, as with a Unix socket.
    """
    host: str = scope["client"][0] if scope.get("client") else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), 64), strict=False))
