"""Password checks for Basic authentication: threads and limits for clients and names."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from pulpcore.content_star.auth.password_checks import MAX_WAITING_PER_NAME, THREADS
from pulpcore.content_star.responses.headers import RETRY_AFTER
from tests.support.holding_backend import HOLD
from tests.support.instance import wait_until
from tests.support.pulp import unique
from tests.support.server import serving

BACKENDS = (
    '["tests.support.holding_backend.HoldingBackend",'
    ' "pulpcore.backends.ObjectRolePermissionBackend"]'
)
SECRET = b"for those who may"
CLIENTS = 32


class Site:
    """A server with a guarded and an open file, whose password checks can be blocked."""

    def __init__(self, url: str, guarded: str, open_path: str, folder: Path) -> None:
        self.url = url
        self.guarded = guarded
        self.open_path = open_path
        self.folder = folder
        self.pool = ThreadPoolExecutor(CLIENTS)

    def hold(self) -> None:
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def checks(self) -> list[str]:
        """Return the user names whose passwords are being checked."""
        return sorted(mark.name.split("-", 2)[2] for mark in self.folder.glob("check-*"))

    def get(self, name: str, password: str, address: str) -> httpx.Response:
        headers = {"X-Forwarded-For": address}
        auth = (name, password)
        return httpx.get(self.url + self.guarded, auth=auth, headers=headers)

    def submit(
        self, name: str, password: str = "wrong", address: str = "a"
    ) -> Future[httpx.Response]:
        return self.pool.submit(self.get, name, password, address)


@pytest.fixture(scope="module")
def server(instance, tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hold")
    pulp = instance.pulp()
    guard = pulp.create("contentguards/core/rbac/", name=unique("guard"))["pulp_href"]
    publication = pulp.publish(pulp.repository({"secret.txt": SECRET}))
    guarded = pulp.distribute(publication=publication, content_guard=guard)
    open_path = pulp.distribute(publication=publication)
    # Without a cache: each request for the open file queries the database.
    environ = {
        "PULP_CONTENT_STAR_CACHE_ENTRIES": "0",
        "PULP_CONTENT_STAR_BASIC_AUTH_TTL": "0",
        "PULP_AUTHENTICATION_BACKENDS": BACKENDS,
        HOLD: str(folder),
    }
    with serving(instance, **environ) as server:
        site = Site(server.content_url, f"{guarded}/secret.txt", f"{open_path}/secret.txt", folder)
        with site.pool:
            yield site
    pulp.cleanup()


@pytest.fixture
def site(server) -> Iterator[Site]:
    server.hold()
    yield server
    server.release()
    wait_until(lambda: not server.checks())


def statuses(futures: list[Future[httpx.Response]]) -> list[int]:
    return [future.result().status_code for future in futures]


def test_password_checks_do_not_block_database_queries(site):
    clients = [site.submit("admin", address=f"192.0.2.{number}") for number in range(16)]
    wait_until(lambda: len(site.checks()) == THREADS)
    for _ in range(20):
        response = httpx.get(site.url + site.open_path)
        assert (response.status_code, response.content) == (200, SECRET)
    assert len(site.checks()) == THREADS
    site.release()
    assert statuses(clients) == [403] * 16


def test_password_checks_of_one_network_leave_a_thread_to_others(instance, site):
    """With several user names, from several addresses of an IPv6 /64."""
    attack = [site.submit(f"user{n}", address=f"2001:db8:0:1::{n}") for n in range(8)]
    wait_until(lambda: len(site.checks()) == 1)
    right = site.submit("admin", instance.password, address="2001:db8:0:2::1")
    wait_until(lambda: len(site.checks()) == 2)
    assert "admin" in site.checks()
    assert not any(future.done() for future in attack)
    site.release()
    assert right.result().content == SECRET
    assert statuses(attack) == [403] * 8


def test_password_check_of_the_address_of_an_attack_returns_200(instance, site):
    """As from behind one NAT, for the attacked user name."""
    attack = [site.submit("admin", f"wrong{n}", address="192.0.2.77") for n in range(12)]
    wait_until(site.checks)
    right = site.submit("admin", instance.password, address="192.0.2.77")
    site.release()
    assert right.result().content == SECRET
    assert statuses(attack) == [403] * 12


def test_password_checks_over_the_limit_of_a_name_return_429(instance, site):
    more = 5
    attack = [
        site.submit("root", address="192.0.2.78") for _ in range(1 + MAX_WAITING_PER_NAME + more)
    ]
    wait_until(lambda: sum(future.done() for future in attack) == more)
    refused = [future.result() for future in attack if future.done()]
    for response in refused:
        assert response.status_code == 429
        assert response.headers["Retry-After"] == str(RETRY_AFTER)
        assert "www-authenticate" not in response.headers
    right = site.submit("admin", instance.password, address="192.0.2.78")
    site.release()
    assert right.result().content == SECRET
    assert sorted(statuses(attack)) == [403] * (1 + MAX_WAITING_PER_NAME) + [429] * more


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_password_of_basic_authentication_is_checked_once_per_request(instance, site, method):
    site.release()
    url, auth = site.url + site.guarded, ("admin", instance.password)
    response = httpx.request(method, url, auth=auth)
    assert response.status_code == 200
