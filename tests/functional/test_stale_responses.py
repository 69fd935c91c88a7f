"""Stale responses from the cache while the database does not answer."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from pulpcore.app.models import (
    CompositeContentGuard,
    Distribution,
    HeaderContentGuard,
    RBACContentGuard,
)
from tests.support.database_proxy import DatabaseProxy, database_proxy, databases_through
from tests.support.instance import wait_until
from tests.support.server import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("orm")]

ENABLED = "Response cache enabled"
OUTAGE = "The database does not answer, content"
STALE = "Sending stale responses"

get = partial(httpx.get, timeout=60)


@dataclass
class Outage:
    """A server, and the proxy between it and the database."""

    server: Server
    proxy: DatabaseProxy

    def url(self, path: str) -> str:
        return self.server.content_url + path

    def warm(self, url: str, **request: object) -> bytes:
        """Request a file until it comes from the cache, which a busy machine does not use."""
        wait_until(lambda: get(url, **request).headers.get("X-PULP-CACHE") == "HIT")
        return get(url, **request).content

    def stale(self, url: str, **request: object) -> httpx.Response:
        """Request until the response is stale: entries are valid for a second after a ping."""
        while "Cache-Status" not in (response := get(url, **request)).headers:
            assert response.is_success, response.text
        return response

    def begin(self, kind: str) -> None:
        """Let the database hang (`stop`) or be away (`refuse`)."""
        said = self.server.said().count(OUTAGE)
        getattr(self.proxy, kind)()
        self.wait_for(OUTAGE, said + 1)

    def end(self, kind: str) -> None:
        said = self.server.said().count(ENABLED)
        {"stop": self.proxy.resume, "refuse": self.proxy.accept}[kind]()
        self.wait_for(ENABLED, said + 1)

    def wait_for(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.server.said().count(text) >= count, explain=self.server.said)


@contextlib.contextmanager
def outage(instance, **options: str) -> Iterator[Outage]:
    """Run a server whose database can fail."""
    with database_proxy() as proxy:
        databases = databases_through(instance, proxy)
        options |= {"PULP_DATABASES": databases, "PULP_CACHE_ENABLED": "true"}
        with serving(instance, **options) as server:
            running = Outage(server, proxy)
            running.wait_for(ENABLED)
            yield running


@pytest.mark.parametrize("kind", ["stop", "refuse"])
def test_stale_responses_fail_no_request_of_cached_files(instance, orm, kind):
    """Clients before, during and after an outage: small and large files, ranges and 404s."""
    small, large = b"small" * 100, bytes(range(256)) * 4096
    base = orm.distribution(publication=orm.publication({"small": small, "large": large}))
    failures: list[object] = []
    counts = {"small": 0, "large": 0, "no": 0}
    done = threading.Event()

    def download(name: str, expected: bytes | None) -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                response = client.get(f"{running.url(base)}/{name}")
                correct = response.content == expected if expected else True
                if response.status_code != (200 if expected else 404) or not correct:
                    failures.append((name, response.status_code, response.text[:200]))
                counts[name] += 1

    def wait_for_requests() -> None:
        before = dict(counts)
        wait_until(lambda: all(counts[name] > before[name] + 20 for name in counts) or failures)

    with outage(instance) as running:
        arguments = [("small", small), ("large", large), ("no", None)]
        clients = [threading.Thread(target=download, args=each) for each in arguments]
        for client in clients:
            client.start()
        try:
            wait_for_requests()
            running.begin(kind)
            wait_for_requests()
            stale = running.stale(f"{running.url(base)}/large", headers={"Range": "bytes=10-19"})
            assert stale.status_code == 206 and stale.content == large[10:20]
            assert stale.headers["Cache-Status"].startswith("pulp; hit; ttl=-")
            uncached = get(f"{running.url(base)}/other")
            assert uncached.status_code == 503 and uncached.headers["Retry-After"]
            assert running.server.said().count(STALE) == 1
            probe = get(running.url("readyz"))
            assert probe.status_code == 200 and "only content that is cached" in probe.text
            running.end(kind)
            wait_for_requests()
        finally:
            done.set()
            for client in clients:
                client.join(120)
        assert failures == []
        fresh = get(f"{running.url(base)}/small")
        assert fresh.content == small and "Cache-Status" not in fresh.headers
        assert get(f"{running.url(base)}/other").status_code == 404


def test_stale_responses_only_behind_guards_that_need_no_database(instance, orm):
    header = orm.guard(HeaderContentGuard, header_name="X-Secret", header_value="right")
    composite = orm.guard(CompositeContentGuard)
    composite.guards.add(header)
    files = {"small": b"small", "large": bytes(100_000)}
    publication = orm.publication(files)
    guarded, members, roles = (
        orm.distribution(publication=publication, content_guard=guard)
        for guard in (header, composite, orm.guard(RBACContentGuard))
    )
    right, wrong = (
        {"X-Secret": base64.b64encode(value).decode()} for value in (b"right", b"wrong")
    )
    admin = httpx.BasicAuth(instance.username, instance.password)
    with outage(instance) as running:
        for name, content in files.items():
            for base, credentials in (
                (guarded, {"headers": right}),
                (members, {"headers": right}),
                (roles, {"auth": admin}),
            ):
                url = f"{running.url(base)}/{name}"
                assert running.warm(url, **credentials) == content
        running.warm(f"{running.url(guarded)}/small", headers=right)
        running.begin("refuse")
        for name, content in files.items():
            url = f"{running.url(guarded)}/{name}"
            stale = running.stale(url, headers=right)
            assert stale.content == content
            assert get(url, headers=wrong).status_code == 403
            assert get(url).status_code == 403
            etag = stale.headers["ETag"]
            assert get(url, headers={"If-None-Match": etag}).status_code == 403
            assert get(f"{running.url(members)}/{name}", headers=right).status_code == 503
            assert get(f"{running.url(roles)}/{name}", auth=admin).status_code == 503
            assert get(f"{running.url(roles)}/{name}").status_code == 503
        running.end("refuse")
        assert get(f"{running.url(members)}/small", headers=right).content == b"small"


FORMS = {
    "list": ("", {}),
    "page": ("", {"Accept": "text/html"}),
    "filtered page": ("?q=b&sort=name&order=desc", {"Accept": "text/html"}),
    "json": ("", {"Accept": "application/json"}),
    "text": ("", {"Accept": "text/plain"}),
    "gzip": ("", {"Accept": "text/html", "Accept-Encoding": "gzip"}),
}


def test_stale_listing_is_of_the_same_host(instance, orm):
    base = orm.distribution(publication=orm.publication({"a": b"content"}))
    options = {"PULP_CONTENT_ORIGIN": "@none", "PULP_USE_X_FORWARDED_HOST": "true"}
    page = {"Accept": "text/html"}
    with outage(instance, **options) as running:
        url = running.url(f"{base}/")
        running.warm(f"{url}a")
        hosts = {name: page | {"X-Forwarded-Host": f"{name}.example"} for name in ("one", "two")}
        before = {name: get(url, headers=headers).text for name, headers in hosts.items()}
        running.begin("stop")
        for name, headers in hosts.items():
            assert f"{name}.example" in before[name]
            assert running.stale(url, headers=headers).text == before[name]
        other = page | {"X-Forwarded-Host": "other.example"}
        assert get(url, headers=other).status_code == 503


def test_stale_listing_is_sent_in_each_form(instance, orm):
    """Also behind a header guard. Facts need the database."""
    header = orm.guard(HeaderContentGuard, header_name="X-Secret", header_value="right")
    publication = orm.publication({f"folder/{name}": b"content" for name in "abc"})
    public = orm.distribution(publication=publication)
    guarded = orm.distribution(publication=publication, content_guard=header)
    right = {"X-Secret": base64.b64encode(b"right").decode(), "Accept-Encoding": "identity"}
    before = {}
    with outage(instance) as running:
        for base in (public, guarded):
            url = running.url(f"{base}/folder/")
            running.warm(f"{url}a", headers=right)
            for form, (query, accept) in FORMS.items():
                response = get(url + query, headers=right | accept)
                assert response.status_code == 200 and "Cache-Status" not in response.headers
                before[base, form] = response
            assert get(f"{running.url(base)}/?use", headers=right).status_code == 200
            assert get(f"{url}a?info", headers=right).status_code == 200
        running.begin("stop")
        for base in (public, guarded):
            url = running.url(f"{base}/folder/")
            running.stale(url, headers=right)
            for form, (query, accept) in FORMS.items():
                stale = running.stale(url + query, headers=right | accept)
                fresh = before[base, form]
                assert stale.content == fresh.content
                assert stale.headers["Cache-Status"].startswith("pulp; hit; ttl=-")
                for name in ("ETag", "Vary", "Content-Type", "Content-Encoding"):
                    assert stale.headers.get(name) == fresh.headers.get(name)
                if "ETag" in fresh.headers:
                    known = {"If-None-Match": fresh.headers["ETag"]}
                    assert get(url + query, headers=right | accept | known).status_code == 304
                    other = {"If-Match": '"other"'}
                    assert get(url + query, headers=right | accept | other).status_code == 412
            page = right | {"Accept": "text/html"}
            assert get(f"{url}?q=c", headers=page).status_code == 503
            assert get(f"{running.url(base)}/?use", headers=right).status_code == 503
            assert get(f"{url}a?info", headers=right).status_code == 503
        for query, accept in FORMS.values():
            accept = {"Accept-Encoding": "identity"} | accept
            url = running.url(f"{guarded}/folder/{query}")
            assert get(url, headers=accept).status_code == 403
        running.end("stop")
        Distribution.objects.filter(base_path=public).update(
            publication=orm.publication({"d": b""})
        )
        for query, accept in FORMS.values():
            assert get(running.url(f"{public}/folder/{query}"), headers=accept).status_code == 404
        running.begin("stop")
        for query, accept in FORMS.values():
            response = get(running.url(f"{public}/folder/{query}"), headers=accept)
            assert response.status_code in (404, 503)


def test_stale_responses_end_after_their_maximum_age(instance, orm):
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    with outage(instance, PULP_CONTENT_STAR_STALE_IF_ERROR="6") as running:
        url = f"{running.url(base)}/a"
        assert running.warm(url) == b"a"
        running.begin("refuse")
        seen = set()

        def expired() -> bool:
            response = get(url)
            seen.add(response.status_code)
            return response.status_code == 503

        wait_until(expired)
        assert seen == {200, 503}
        assert get(running.url("readyz")).status_code == 503


def test_stale_responses_can_be_turned_off(instance, orm):
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    with outage(instance, PULP_CONTENT_STAR_STALE_IF_ERROR="0") as running:
        url = f"{running.url(base)}/a"
        assert running.warm(url) == b"a"
        running.begin("refuse")
        wait_until(lambda: get(url).status_code == 503)  # valid for a second


def test_stale_response_is_never_from_before_a_change_that_was_received(instance, orm):
    old, new = orm.publication({"a": b"old"}), orm.publication({"a": b"new"})
    base = orm.distribution(publication=old)
    with outage(instance) as running:
        url = f"{running.url(base)}/a"
        assert running.warm(url) == b"old"
        Distribution.objects.filter(base_path=base).update(publication=new)
        running.begin("refuse")  # nothing has requested the new file
        assert get(url).status_code == 503
        # While the process receives no notifications, it sends the entry that was valid last.
        running.end("refuse")
        assert running.warm(url) == b"new"
        running.begin("refuse")
        assert get(url).content == b"new"
        Distribution.objects.filter(base_path=base).update(publication=old)
        assert get(url).content == b"new"
        running.end("refuse")
        assert get(url).content == b"old"
