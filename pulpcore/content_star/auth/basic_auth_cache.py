"""Basic authentication with a short-lived cache of successful password checks.

Password hashes are slow by design: a check takes 100 to 250 ms of CPU, and clients send the same
credentials with every request.

- Only successful checks are cached, for `CONTENT_STAR_BASIC_AUTH_TTL` seconds; a hit does not
  extend the lifetime. Failed checks are repeated with each request.
- No password is cached: the key is an HMAC of the credentials, with a random secret of this
  process. The entry has the user's primary key and an HMAC of the user's row.
- Each hit reads the user from the database, as Django does for a session, and compares the HMAC:
  a change of the password, or a renamed, deactivated or deleted user, takes effect with the next
  request in every process.
- Only REST framework's own check, `django.contrib.auth.authenticate` with name and password, is
  cached. Code of a subclass in `authenticate` or `authenticate_credentials` runs for every
  request. Backends in `AUTHENTICATION_BACKENDS` that depend on anything else (the client's address,
  a directory that locks users out) are called once per lifetime: set it to 0 to avoid that.
"""

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from cachetools import TTLCache
from django.conf import settings
from django.contrib.auth import load_backend
from django.db import InterfaceError, OperationalError
from rest_framework.authentication import BasicAuthentication
from starlette.types import Scope

from pulpcore.content_star.auth.password_checks import outcome_of
from pulpcore.content_star.resources import resources_of

# Maximum number of entries; the least recently used are evicted. About half a megabyte.
CAPACITY = 1024


@dataclass(frozen=True)
class _Entry:
    user_id: Any
    backend: str
    """Import path of the authentication backend that accepted the credentials."""
    fingerprint: bytes


class PasswordCache:
    """LRU cache of successful password checks. Thread-safe."""

    def __init__(
        self,
        seconds: float,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` is the lifetime of an entry; 0 disables the cache."""
        self._seconds = seconds
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._entries: TTLCache[bytes, _Entry] = TTLCache(capacity, seconds, timer=clock)

    def get(self, name: str, password: str) -> Any | None:
        """Return the user for credentials that are cached and still valid, else None.

        Reads the user from the database; raises `django.db.Error`.
        """
        key = self._hash(name, password)
        entry = self._entry(key)
        if entry is None:
            return None
        user = None
        if entry.backend in settings.AUTHENTICATION_BACKENDS:
            user = load_backend(entry.backend).get_user(entry.user_id)
        if user is None or not hmac.compare_digest(self._fingerprint(user), entry.fingerprint):
            self._discard(key)
            return None
        user.backend = entry.backend
        return user

    def add(self, name: str, password: str, user: Any) -> None:
        """Cache a successful check; `user.backend` is set by Django's `authenticate`."""
        if self._seconds <= 0:
            return
        entry = _Entry(user.pk, user.backend, self._fingerprint(user))
        with self._lock:
            self._entries[self._hash(name, password)] = entry

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, key: bytes) -> _Entry | None:
        with self._lock:
            entry: _Entry | None = self._entries.get(key)
        return entry

    def _discard(self, key: bytes) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def _fingerprint(self, user: Any) -> bytes:
        """Return an HMAC of the fields whose change invalidates the entry."""
        return self._hash(user.get_username(), user.password, str(user.is_active))

    def _hash(self, *parts: str) -> bytes:
        # Each part is prefixed with its length, so that different parts never concatenate alike.
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
        return hmac.digest(self._key, message, "sha256")


class CachedBasicAuthentication(BasicAuthentication):
    """REST framework's Basic authentication with a cache of password checks."""

    def authenticate_credentials(
        self, userid: str, password: str, request: Any = None
    ) -> tuple[Any, Any]:
        """Return the user and None, as `BasicAuthentication` does.

        Raises `AuthenticationFailed` for wrong credentials, and `CheckNeeded` if the password has
        to be checked in another thread first.
        """
        scope: Scope = request._request.scope
        cache = resources_of(scope).password_cache
        if user := cache.get(userid, password):
            return user, None
        check = partial(self._check, cache, userid, password, request)
        outcome = outcome_of(scope, userid, password, check)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, None

    def _check(self, cache: PasswordCache, name: str, password: str, request: Any) -> Any:
        """Return the user, or the exception for rejected credentials.

        Raises the errors that `DatabaseExecutor.run` retries: the database is unreachable.
        """
        # A concurrent request may have checked the same credentials in the meantime.
        if user := cache.get(name, password):
            return user
        try:
            user, _ = super().authenticate_credentials(name, password, request)
        except (InterfaceError, OperationalError):
            raise
        except Exception as error:
            return error
        cache.add(name, password, user)
        return user


def with_cache(authentication: type) -> type:
    """Return a caching subclass of a Basic authentication class; any other class unchanged."""
    if not issubclass(authentication, BasicAuthentication):
        return authentication
    if authentication is BasicAuthentication:
        return CachedBasicAuthentication
    # In the MRO the cache comes after the derived class, whose own code runs for every request.
    return type(authentication.__name__, (authentication, CachedBasicAuthentication), {})
