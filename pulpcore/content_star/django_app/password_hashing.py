"""Bounds on password hashing in Django's views, which takes 100 to 250 ms of CPU each time.

Basic authentication of REST framework, login forms, and views that set a password all call a hasher
of Django, in the thread of the view. Here each call needs a slot, of which one client has half. A
view that hashes, or waits to, releases its slot in the thread pool to another request, so that
wrong passwords of one client delay no requests of others; it goes on when it has one again.
Responses to wrong passwords are delayed further, outside of the threads.

Clients are distinguished as in `auth/password_checks.py`, which does the same for content.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from django.contrib.auth.hashers import get_hashers
from django.contrib.auth.signals import user_login_failed
from rest_framework.exceptions import Throttled

from pulpcore.content_star.database.connection import close_connections
from pulpcore.content_star.django_app.slots import released_slot
from pulpcore.content_star.responses.headers import RETRY_AFTER

T = TypeVar("T")

# Hashes computed at a time: more than processors would only slow each down. One client never has
# all slots.
SLOTS = max(2, os.cpu_count() or 1)
SLOTS_PER_CLIENT = SLOTS // 2

# Views that hash, wait for it, or wait for a slot in the pool afterwards. Each has a thread, and an
# event loop with three file descriptors. At 0.2 s and one slot, the last one of a client waits for
# 6 s.
MAX_PER_CLIENT = 32
MAX_VIEWS = 64


class TooManyPasswords(Throttled):
    """Too many views of a client, or of all, hash passwords: 429."""

    default_detail = "Too many password checks are queued. Try again later."

    def __init__(self) -> None:
        super().__init__(wait=RETRY_AFTER)


class HashingView:
    """A request in whose view passwords may be hashed."""

    def __init__(self, client: str) -> None:
        self.client = client
        """Result of `client_network`."""
        self.is_hashing = False
        self.has_failed = False
        """Whether a login failed."""


current_view: ContextVar[HashingView | None] = ContextVar("content_star_hashing_view", default=None)


class HashingSlots:
    """Slots for password hashing in threads, by client."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._views: Counter[str] = Counter()
        self._hashing: Counter[str] = Counter()

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """Wait for a slot and hold it for the block. Raises `TooManyPasswords`.

        The thread releases its slot in the pool before the wait, and has one again after the block.
        """
        with (
            self._counted(self._views, client, self._refuse_if_full),
            released_slot(),
            self._counted(self._hashing, client, self._wait_until_free),
        ):
            yield

    def _refuse_if_full(self, client: str) -> None:
        if self._views[client] >= MAX_PER_CLIENT or self._views.total() >= MAX_VIEWS:
            raise TooManyPasswords

    def _wait_until_free(self, client: str) -> None:
        if not self._is_free(client):
            close_connections()
            self._condition.wait_for(lambda: self._is_free(client))

    def _is_free(self, client: str) -> bool:
        return self._hashing.total() < SLOTS and self._hashing[client] < SLOTS_PER_CLIENT

    @contextmanager
    def _counted(
        self, counter: Counter[str], client: str, admit: Callable[[str], None]
    ) -> Iterator[None]:
        """Count the client for the block, once `admit` has returned."""
        with self._condition:
            admit(client)
            counter[client] += 1
        try:
            yield
        finally:
            with self._condition:
                counter[client] -= 1
                if not counter[client]:
                    del counter[client]
                self._condition.notify_all()


# Of the process, as its processors are.
_slots = HashingSlots()


def bound_hashing() -> None:
    """Bound the hashing of views from now on: wraps the methods of Django's hashers once.

    `check_password` and `make_password` call one of them; Django has no other hook for all.
    """
    for hasher in get_hashers():
        for name in ("encode", "verify", "harden_runtime"):
            if name not in vars(hasher):
                setattr(hasher, name, _bounded(getattr(hasher, name), _slots))
    user_login_failed.connect(_note_failure)


def _bounded(method: Callable[..., T], slots: HashingSlots) -> Callable[..., T]:
    @wraps(method)
    def bounded(*arguments: Any, **options: Any) -> T:
        view = current_view.get()
        if view is None or view.is_hashing:  # `verify` calls `encode`
            return method(*arguments, **options)
        with slots.slot(view.client):
            view.is_hashing = True
            try:
                return method(*arguments, **options)
            finally:
                view.is_hashing = False

    return bounded


def _note_failure(**_: Any) -> None:
    """Note that a password of the current view was wrong."""
    if view := current_view.get():
        view.has_failed = True
