"""Slots of views that hash passwords."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from django.contrib.auth import authenticate, hashers
from django.contrib.auth.backends import ModelBackend

from pulpcore.content_star.django_app import password_hashing
from pulpcore.content_star.django_app import slots as pool_slots
from pulpcore.content_star.django_app.password_hashing import (
    MAX_PER_CLIENT,
    MAX_VIEWS,
    SLOTS_PER_CLIENT,
    HashingSlots,
    HashingView,
    TooManyPasswords,
    bound_hashing,
    current_view,
)
from pulpcore.content_star.django_app.slots import PoolSlots, released_slot
from tests.support.instance import wait_until


class Slots:
    """Threads that hold slots until they are released."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.slots = HashingSlots()
        self.release = threading.Event()
        self.pool = pool

    def take(self, client: str) -> None:
        with self.slots.slot(client):
            assert self.release.wait(300)


@pytest.fixture
def held():
    with ThreadPoolExecutor(2 * MAX_VIEWS) as pool:
        slots = Slots(pool)
        yield slots
        slots.release.set()


def test_one_client_leaves_a_slot_to_another(held):
    one = [held.pool.submit(held.take, "a") for _ in range(MAX_PER_CLIENT)]
    wait_until(lambda: held.slots._hashing["a"] == SLOTS_PER_CLIENT)
    other = held.pool.submit(held.take, "b")
    wait_until(lambda: held.slots._hashing["b"] == 1)
    assert held.slots._hashing["a"] == SLOTS_PER_CLIENT
    held.release.set()
    for future in (*one, other):
        future.result()
    assert not held.slots._hashing
    assert not held.slots._views


@pytest.mark.parametrize("clients", [["a"] * MAX_PER_CLIENT, [str(n) for n in range(MAX_VIEWS)]])
def test_views_beyond_the_limit_are_refused(held, clients):
    for client in clients:
        held.pool.submit(held.take, client)
    wait_until(lambda: held.slots._views.total() == len(clients))
    with pytest.raises(TooManyPasswords) as refused:
        held.take("a")
    assert refused.value.status_code == 429
    held.release.set()
    wait_until(lambda: not held.slots._views)
    held.take("a")


def test_every_hash_of_a_view_releases_its_slot_in_the_pool_once(monkeypatch):
    released = []
    monkeypatch.setattr(password_hashing, "released_slot", lambda: nullcontext(released.append(1)))
    view = HashingView("a")

    bound_hashing()
    bound_hashing()  # of a second application
    encoded = hashers.make_password("right")
    assert not released, "outside of a view"
    token = current_view.set(view)
    try:
        assert hashers.check_password("right", encoded)
        assert len(released) == 1, "`verify` calls `encode`"
        hashers.make_password("right")
        assert len(released) == 2
    finally:
        current_view.reset(token)


class Holder:
    """A thread that has the only slot of a pool, releases it for a block, and takes it again."""

    def __init__(self, pool: ThreadPoolExecutor, slots: PoolSlots) -> None:
        self.slots = slots
        self.may_release, self.may_return = threading.Event(), threading.Event()
        self.future = pool.submit(self.run)

    def run(self) -> None:
        with self.slots.held_by_thread():
            assert self.may_release.wait(300)
            with released_slot(), released_slot():
                assert self.may_return.wait(300)


def test_slot_goes_to_returning_views_first_and_then_to_requests_in_order(held, monkeypatch):
    """Requests that are cancelled leave the queue, or pass the slot on if they have it."""
    slots = PoolSlots(1)
    order = []
    closed = threading.Event()
    monkeypatch.setattr(pool_slots, "close_connections", closed.set)

    async def request(name: str) -> None:
        await slots.acquire()
        order.append(name)

    async def main() -> None:
        await request("view")
        view = Holder(held.pool, slots)
        tasks = [asyncio.create_task(request(name)) for name in ("a", "b", "c", "d")]
        await asyncio.sleep(0)
        assert slots.waiting == 4
        view.may_release.set()
        await tasks[0]
        view.may_return.set()
        assert await asyncio.to_thread(closed.wait, 300), "the view waits without a connection"
        slots.release()
        await asyncio.to_thread(view.future.result, 300)
        assert order == ["view", "a"], "the view is first"
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        assert slots.waiting == 2
        slots.release()
        tasks[1].cancel()  # it has the slot, but does not run yet
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["view", "a", "d"]
        slots.release()
        await request("e")

    try:
        asyncio.run(asyncio.wait_for(main(), 300))
    finally:
        slots.release()  # to the view, if the test fails


def test_view_whose_hash_fails_has_its_slot_again():
    slots = PoolSlots(1)
    asyncio.run(slots.acquire())
    with slots.held_by_thread():
        for _ in range(2):
            with pytest.raises(ValueError, match="failed"), released_slot():
                assert slots._free == 1
                raise ValueError("failed")
            assert slots._free == 0
    with released_slot():
        assert slots._free == 0, "of a thread that has none"


def test_failed_login_is_noted_for_its_view(monkeypatch):
    monkeypatch.setattr(ModelBackend, "authenticate", lambda *_, **__: None)
    view = HashingView("a")

    bound_hashing()
    token = current_view.set(view)
    try:
        authenticate(None, username="admin", password="wrong")
    finally:
        current_view.reset(token)
    assert view.has_failed
