"""Queues of password checks, and the delay of failures."""

import asyncio

import pytest
from starlette.exceptions import HTTPException

from pulpcore.content_star.auth import password_checks
from pulpcore.content_star.auth.password_checks import (
    FORGET_AFTER,
    FREE_FAILURES,
    MAX_CLIENTS,
    MAX_PAUSE,
    CheckNeeded,
    Failures,
    Turns,
    client_network,
    outcome_of,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_failures_of_a_client_are_delayed_by_more_each_time():
    failures = Failures(Clock())
    pauses = [failures.pause("a") for _ in range(100)]
    assert pauses[:FREE_FAILURES] == [0] * FREE_FAILURES
    assert pauses == sorted(pauses)
    assert pauses[FREE_FAILURES] > 0
    assert pauses[-1] == MAX_PAUSE
    assert failures.pause("b") == 0, "for this client, not for others"


def test_failures_expire():
    clock = Clock()
    failures = Failures(clock)
    for _ in range(1000):
        failures.pause("a")
    clock.now += FORGET_AFTER * 5
    assert 0 < failures.pause("a") < MAX_PAUSE
    clock.now += FORGET_AFTER * 100
    assert failures.pause("a") == 0


def test_failures_are_counted_for_a_limited_number_of_clients():
    failures = Failures(Clock())
    for _ in range(FREE_FAILURES + 1):
        failures.pause("first")
    for number in range(MAX_CLIENTS - 1):
        failures.pause(str(number))
    assert failures.pause("first") > 0
    for number in range(MAX_CLIENTS):
        failures.pause(f"more {number}")
    assert len(failures) == MAX_CLIENTS
    assert failures.pause("first") == 0


@pytest.mark.parametrize(
    ("client", "network"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8::1", 5), "2001:db8::/64"),
        (("2001:db8::ffff:1:2", 0), "2001:db8::/64"),
        (("2001:db8:0:1::1", 0), "2001:db8:0:1::/64"),
        (("a proxy's nonsense", 0), "a proxy's nonsense"),
        (None, ""),
    ],
)
def test_client_network_is_the_address_or_its_ipv6_network(client, network):
    assert client_network({"client": client}) == network


@pytest.mark.anyio
async def test_queue_of_password_checks_is_fifo():
    turns, order = Turns(), []

    async def take(number: int) -> None:
        async with turns.turn("key", waiting=3):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*map(take, range(4)))
    assert order == [0, 1, 2, 3]
    assert not len(turns)


@pytest.mark.anyio
async def test_queue_of_password_checks_that_is_full_returns_429():
    turns, go = Turns(), asyncio.Event()

    async def take() -> None:
        async with turns.turn("key", waiting=1):
            await go.wait()

    holding, waiting = asyncio.create_task(take()), asyncio.create_task(take())
    await asyncio.sleep(0)
    with pytest.raises(HTTPException, match="429"):
        await take()
    async with turns.turn("other", waiting=0):
        pass
    waiting.cancel()
    await asyncio.wait([waiting])
    next_one = asyncio.create_task(take())
    go.set()
    await asyncio.gather(holding, next_one)
    assert not len(turns)


def test_password_check_is_requested_once_within_with_passwords():
    assert outcome_of({}, "name", "password", lambda: "user") == "user"
    scope = {password_checks._KEY: {}}
    with pytest.raises(CheckNeeded) as raised:
        outcome_of(scope, "name", "password", lambda: "user")
    assert not isinstance(raised.value, Exception)
    assert (
        "password"
        not in str(raised.value).split("The password has to be checked in another thread.")[1]
    )
    scope[password_checks._KEY][raised.value.credentials] = raised.value.check()
    assert outcome_of(scope, "name", "password", lambda: "another") == "user"
