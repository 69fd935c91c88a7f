"""Slots of views that hash passwords."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth import authenticate, hashers
from django.contrib.auth.backends import ModelBackend

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


def test_every_hash_of_a_view_leaves_the_pool_once():
    left = []
    view = HashingView("a")
    view.leave_pool = lambda: left.append(1)

    bound_hashing()
    bound_hashing()  # of a second application
    encoded = hashers.make_password("right")
    assert not left, "outside of a view"
    token = current_view.set(view)
    try:
        assert hashers.check_password("right", encoded)
        assert len(left) == 1, "`verify` calls `encode`"
        hashers.make_password("right")
        assert len(left) == 2
    finally:
        current_view.reset(token)


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
