"""Cache of successful password checks: lifetime, invalidation, and which code still runs."""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, ClassVar

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.core.handlers.asgi import ASGIRequest
from django.test import override_settings
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from pulpcore.content_star.auth.authentication import authenticate
from pulpcore.content_star.auth.basic_auth_cache import (
    CachedBasicAuthentication,
    PasswordCache,
    with_cache,
)
from tests.support.asgi import state_of
from tests.unit.test_linear_parsing import WORST, scope


class Backend(ModelBackend):
    """A backend that counts how often it has to check a password."""

    checks: ClassVar[list[str]] = []

    def authenticate(self, request: Any, username: Any = None, **credentials: Any) -> Any:
        self.checks.append(username)
        return super().authenticate(request, username, **credentials)


PATH = f"{__name__}.Backend"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def cheap_hashes() -> Iterator[None]:
    """Hash passwords quickly: Django's default takes a quarter of a second for each."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture
def user(orm) -> Iterator[Any]:
    user = get_user_model().objects.create_user(orm.unique(), password="first")
    yield user
    type(user).objects.filter(pk=user.pk).delete()


@pytest.fixture
def cache(clock) -> PasswordCache:
    """A cache of one minute."""
    return PasswordCache(60, clock=clock)


@pytest.fixture
def checks() -> Iterator[list[str]]:
    """The names whose passwords were checked."""
    Backend.checks.clear()
    with override_settings(AUTHENTICATION_BACKENDS=[PATH]):
        yield Backend.checks


@pytest.fixture
def log_in(cache) -> Callable[..., Any]:
    """Authenticate a user in an application that has `cache`."""

    def log_in(
        user: Any,
        password: str = "first",
        kind: type = BasicAuthentication,
        cache: PasswordCache = cache,
    ) -> Any:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        scope["state"] = state_of(password_cache=cache)
        request = Request(ASGIRequest(scope, BytesIO()))
        return with_cache(kind)().authenticate_credentials(user.username, password, request)[0]

    return log_in


def test_password_is_checked_once_per_ttl(user, checks, clock, log_in):
    first, second = log_in(user), log_in(user)
    assert first == second == user
    assert second.backend == PATH
    assert len(checks) == 1
    clock.now += 59
    assert log_in(user) == user
    assert len(checks) == 1
    clock.now += 1
    log_in(user)
    assert len(checks) == 2


def test_failed_password_is_checked_each_time(user, checks, cache, log_in):
    log_in(user)
    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            log_in(user, "wrong")
    assert len(checks) == 3
    assert len(cache) == 1


def test_changed_user_is_checked_again(user, checks, log_in):
    for count, change in enumerate(({"is_active": False}, {"username": "renamed"}), 1):
        log_in(user)
        assert len(checks) == 2 * count - 1
        row = get_user_model().objects.filter(pk=user.pk)
        row.update(**change)
        with pytest.raises(AuthenticationFailed):
            log_in(user)
        row.update(is_active=True, username=user.username)


def test_entry_of_a_removed_authentication_backend_is_not_used(user, checks, log_in):
    log_in(user)
    other = "django.contrib.auth.backends.ModelBackend"
    with override_settings(AUTHENTICATION_BACKENDS=[other]):
        assert log_in(user).backend == other


def test_ttl_of_zero_disables_the_password_cache(user, checks, log_in):
    off = PasswordCache(0)
    log_in(user, cache=off)
    log_in(user, cache=off)
    assert len(checks) == 2


def test_password_cache_holds_neither_passwords_nor_names(user, checks, cache, log_in):
    log_in(user)
    entry = repr(vars(cache))
    assert len(cache) == 1
    user.refresh_from_db()
    for secret in ("first", user.username, user.password):
        assert secret not in entry


def test_password_cache_key_separates_name_and_password(user):
    cache = PasswordCache(60)
    user.backend = PATH
    cache.add("ab", "c", user)
    with override_settings(AUTHENTICATION_BACKENDS=[PATH]):
        assert cache.get("a", "bc") is None
        assert cache.get("ab", "c") == user
        assert cache.get("ab\udc80", "c") is None


def test_password_cache_evicts_the_least_recently_used(user):
    cache = PasswordCache(60, capacity=2)
    user.backend = PATH
    with override_settings(AUTHENTICATION_BACKENDS=[PATH]):
        cache.add("a", "", user)
        cache.add("b", "", user)
        assert cache.get("a", "")
        cache.add("c", "", user)
        assert cache.get("b", "") is None
        assert cache.get("a", "")
        assert cache.get("c", "")
    assert len(cache) == 2


def test_password_cache_is_thread_safe(clock):
    user = get_user_model()(pk=1, username="name", password="hash")
    user.backend = "not.configured"
    cache = PasswordCache(60, capacity=3, clock=clock)

    def use(number: int) -> None:
        cache.add(str(number % 7), "", user)
        cache.get(str(number % 5), "")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(4000)))
    assert len(cache) <= 3


def test_code_of_a_basic_authentication_subclass_runs_each_time(user, checks, log_in):
    class Office(BasicAuthentication):
        hours = True

        def authenticate_credentials(self, userid: str, password: str, request: Any = None) -> Any:
            if not self.hours:
                raise AuthenticationFailed
            return super().authenticate_credentials(userid, password, request)

    assert log_in(user, kind=Office) == log_in(user, kind=Office) == user
    assert len(checks) == 1
    Office.hours = False
    with pytest.raises(AuthenticationFailed):
        log_in(user, kind=Office)
    assert issubclass(with_cache(Office), Office)
    assert with_cache(SessionAuthentication) is SessionAuthentication


def test_every_configured_basic_authentication_class_is_cached():
    from rest_framework.settings import api_settings

    from pulpcore.content_star.auth.authentication import View

    configured = api_settings.DEFAULT_AUTHENTICATION_CLASSES
    for ours, theirs in zip(View.authentication_classes, configured, strict=True):
        assert issubclass(ours, theirs)
        remembers = issubclass(ours, CachedBasicAuthentication)
        assert remembers == issubclass(theirs, BasicAuthentication)


def test_credentials_are_parsed_in_linear_time(orm):
    """As those of `unit/test_linear_parsing.py`, but Django looks for the users."""
    state = state_of(password_cache=PasswordCache(60))
    for value in WORST[::5]:
        basic = base64.b64encode(value.encode()).decode()
        authenticate({**scope(authorization=f"Basic {basic}"), "state": state})
