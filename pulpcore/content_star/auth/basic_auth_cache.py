"""Basic authentication whose password check is remembered for a short time.

Django stores passwords as hashes that are slow on purpose: a check takes 100 to 250 ms of CPU, and
clients send the same credentials with every file. What is remembered, and what is not:

- Only a check that succeeded, for `CONTENT_STAR_BASIC_AUTH_TTL` seconds from then; using it does
  not prolong it. Failures are checked anew each time.
- No password: the key is an HMAC of the credentials, under a random key that never leaves this
  process. What it leads to is the user's primary key, and an HMAC of the user's row.
- The user is read from the database each time, as for a session, and has to be the same as then:
  a password changed, a user renamed, deactivated or deleted counts with the next request, in every
  process.
- Only REST framework's own check, `django.contrib.auth.authenticate` with name and password, is
  replaced. What a subclass adds in `authenticate` or `authenticate_credentials` is done for every
  request. Backends of `AUTHENTICATION_BACKENDS` that go by anything else (the client's address, a
  directory that can lock users out) are asked once in the time: set it to 0 where that matters.
"""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth import load_backend
from django.db import InterfaceError, OperationalError
from rest_framework.authentication import BasicAuthentication

from pulpcore.content_star.auth.password_checks import outcome_of

# Credentials that are remembered at most, the latest used ones: about half a megabyte.
CAPACITY = 1024


@dataclass(frozen=True)
class _Entry:
    user_id: Any
    backend: str
    """Import path of the backend that knew the user."""
    fingerprint: bytes
    expires: float
    """In seconds, on the memory's clock."""


class Memory:
    """Successful password checks. May be used from any thread."""

    def __init__(
        self,
        seconds: float,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` that a check is remembered; with 0 none is."""
        self._seconds = seconds
        self._capacity = capacity
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def get(self, name: str, password: str) -> Any | None:
        """Return the user whose password was checked before; None if it has to be checked.

        Reads the user from the database, and raises what that raises.
        """
        key = self._hash(name, password)
        entry = self._entry(key)
        if entry is None:
            return None
        user = None
        if entry.backend in settings.AUTHENTICATION_BACKENDS:
            user = load_backend(entry.backend).get_user(entry.user_id)
        if user is None or not hmac.compare_digest(self._fingerprint(user), entry.fingerprint):
            self._forget(key)
            return None
        user.backend = entry.backend
        return user

    def remember(self, name: str, password: str, user: Any) -> None:
        """Note that `user`, with the `backend` that `authenticate` sets, has this password."""
        if self._seconds <= 0:
            return
        key = self._hash(name, password)
        expires = self._clock() + self._seconds
        entry = _Entry(user.pk, user.backend, self._fingerprint(user), expires)
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, key: bytes) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.expires <= self._clock():
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return entry

    def _forget(self, key: bytes) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def _fingerprint(self, user: Any) -> bytes:
        """Hash what makes the password check valid: another value, and it has to be done again."""
        return self._hash(user.get_username(), user.password, str(user.is_active))

    def _hash(self, *parts: str) -> bytes:
        # With its length before it, no part can pass for two.
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
        return hmac.digest(self._key, message, "sha256")


memory = Memory(settings.CONTENT_STAR_BASIC_AUTH_TTL)


class CachedBasicAuthentication(BasicAuthentication):
    """REST framework's Basic authentication, with a memory."""

    def authenticate_credentials(
        self, userid: str, password: str, request: Any = None
    ) -> tuple[Any, Any]:
        """Return the user and None, as the class that it takes the place of.

        Raises `AuthenticationFailed` for wrong credentials, and `CheckNeeded` where they have to be
        checked in another thread first.
        """
        if user := memory.get(userid, password):
            return user, None
        scope = getattr(getattr(request, "_request", None), "scope", {})
        outcome = outcome_of(
            scope, userid, password, partial(self._check, userid, password, request)
        )
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, None

    def _check(self, name: str, password: str, request: Any) -> Any:
        """Return the user, or the exception that credentials which are wrong or none end in.

        Raises what the door does again: a database that cannot be reached.
        """
        # Another request with the same ones may have been checked while this one waited.
        if user := memory.get(name, password):
            return user
        try:
            user, _ = super().authenticate_credentials(name, password, request)
        except (InterfaceError, OperationalError):
            raise
        except Exception as error:
            return error
        memory.remember(name, password, user)
        return user


def with_cache(authentication: type) -> type:
    """Return the authentication class with a memory if it is a Basic one, else as it is."""
    if not issubclass(authentication, BasicAuthentication):
        return authentication
    if authentication is BasicAuthentication:
        return CachedBasicAuthentication
    # The memory goes between REST framework's class and those derived from it, which see all.
    return type(authentication.__name__, (authentication, CachedBasicAuthentication), {})
