"""Passwords that Django's views hash hold up no other requests, on a process of ours."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth import hashers
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse

from pulpcore.content_star.django_app.password_hashing import SLOTS_PER_CLIENT, bound_hashing
from tests.support.database import backend_pid
from tests.support.holding_backend import HOLD
from tests.support.instance import Instance, wait_until
from tests.support.pulp import API, unique
from tests.support.server import serving
from tests.support.views import serving_views

HASHERS = '["tests.support.holding_hasher.HoldingHasher"]'
THREADS = 2
CLIENTS = 3 * THREADS


class Site:
    """A server with few threads for views, whose password hashes can be held."""

    def __init__(self, url: str, folder: Path, instance: Instance, pool: ThreadPoolExecutor):
        self.url = url
        self.folder = folder
        self.instance = instance
        self.pool = pool

    def hold(self) -> None:
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def hashed(self) -> list[str]:
        """Return the passwords that are being hashed."""
        return [mark.name.split("-", 2)[2] for mark in self.folder.glob("hash-*")]

    def client(self, address: str) -> httpx.Client:
        headers = {"X-Forwarded-For": address}
        return httpx.Client(base_url=self.url, headers=headers)

    def ask(self, hashing: "Hashing", password: str, address: str) -> Future[httpx.Response]:
        return self.pool.submit(self._ask, hashing, password, address)

    def _ask(self, hashing: "Hashing", password: str, address: str) -> httpx.Response:
        with self.client(address) as client:
            return hashing(self, client, password)


Hashing = Callable[[Site, httpx.Client, str], httpx.Response]


def basic(site: Site, client: httpx.Client, password: str) -> httpx.Response:
    return client.get(f"{API}repositories/", auth=("admin", password))


def basic_of_unknown_user(site: Site, client: httpx.Client, password: str) -> httpx.Response:
    return client.get(f"{API}repositories/", auth=("nobody", password))


def basic_with_upload(site: Site, client: httpx.Client, password: str) -> httpx.Response:
    files = {"file": ("file", bytes(100_000))}
    return client.post(f"{API}artifacts/", files=files, auth=("admin", password))


def login_form(site: Site, client: httpx.Client, password: str) -> httpx.Response:
    token = client.get("/auth/login/").cookies["csrftoken"]
    form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token}
    return client.post("/auth/login/", data=form)


def new_user(site: Site, client: httpx.Client, password: str) -> httpx.Response:
    client.cookies, client.headers["X-CSRFToken"] = site.session.cookies, site.token
    fields = {"username": unique("user"), "password": f"{password} {unique('password')}"}
    return client.post(f"{API}users/", json=fields)


@pytest.fixture(scope="module")
def server(instance, tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hold")
    environ = {
        "PULP_PASSWORD_HASHERS": HASHERS,
        "PULP_CONTENT_STAR_API_THREADS": str(THREADS),
        HOLD: str(folder),
    }
    with serving(instance, **environ) as running, ThreadPoolExecutor(2 * CLIENTS) as pool:
        site = Site(running.url, folder, instance, pool)
        with instance.client() as site.session:
            site.token = site.session.headers["X-CSRFToken"]
            yield site
            for user in site.session.get(f"{API}users/").json()["results"]:
                if user["username"].startswith("user"):
                    site.session.delete(user["pulp_href"])


@pytest.fixture
def site(server) -> Iterator[Site]:
    server.hold()
    yield server
    server.release()
    wait_until(lambda: not server.hashed())


@pytest.mark.parametrize(
    ("hashing", "status"),
    [
        (basic, 401),
        (basic_of_unknown_user, 401),
        (basic_with_upload, 401),
        (login_form, 200),
        (new_user, 201),
    ],
)
def test_passwords_of_one_client_hold_up_no_requests_of_others(site, hashing, status):
    attack = [site.ask(hashing, "wrong", "192.0.2.1") for _ in range(CLIENTS)]
    wait_until(lambda: len(site.hashed()) == SLOTS_PER_CLIENT)
    with site.client("192.0.2.2") as other:
        for _ in range(2 * THREADS):
            assert other.get(f"{API}status/").status_code == 200
    right = site.ask(basic, site.instance.password, "192.0.2.2")
    wait_until(lambda: site.instance.password in site.hashed())
    assert len(site.hashed()) == SLOTS_PER_CLIENT + 1, "the others of the client wait"
    assert not any(future.done() for future in attack)
    site.release()
    assert right.result().status_code == 200
    assert [future.result().status_code for future in attack] == [status] * CLIENTS


@contextmanager
def requested(view: Callable[[HttpRequest], HttpResponse]) -> Iterator[None]:
    """Request a view `CLIENTS` times at once; the requests have to succeed after the block."""
    bound_hashing()
    with (
        serving_views(view, CONTENT_STAR_API_THREADS=THREADS) as url,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        get = partial(httpx.get, f"{url}/{view.__name__}", timeout=300)
        responses = [pool.submit(get) for _ in range(CLIENTS)]
        yield
        assert [response.result().text for response in responses] == ["hashed"] * CLIENTS


def is_open(pid: int) -> bool:
    """Return whether the connection with a backend pid is open."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
        return cursor.fetchone() is not None


def test_views_that_have_hashed_wait_for_a_thread_without_a_connection(instance, monkeypatch):
    pids, hashed, running = [], [], []
    may_end = threading.Event()
    pbkdf2 = hashers.pbkdf2

    def counted(*arguments: Any, **options: Any) -> bytes:
        hashed.append(pbkdf2(*arguments, **options))
        return hashed[-1]

    def view(request: HttpRequest) -> HttpResponse:
        pids.append(backend_pid())
        hashers.make_password("password")
        pids.append(backend_pid())
        running.append(request)
        assert may_end.wait(300)
        running.pop()
        return HttpResponse("hashed")

    monkeypatch.setattr(hashers, "pbkdf2", counted)
    with requested(view):
        try:
            wait_until(lambda: len(hashed) == CLIENTS and len(running) >= THREADS)
            wait_until(lambda: sum(map(is_open, set(pids))) == THREADS)
            assert len(running) == THREADS
        finally:
            may_end.set()


def test_views_in_a_transaction_do_not_wait_for_each_other_after_hashing(instance):
    """Otherwise the one with the lock would wait for the threads of those that wait for it."""

    def view(request: HttpRequest) -> HttpResponse:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '60s'")  # for broken code
            cursor.execute("SELECT pg_advisory_xact_lock(20261201)")
            hashers.make_password("password")
        return HttpResponse("hashed")

    with requested(view):
        pass
