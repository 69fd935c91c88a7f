"""Artifacts in object stores: redirects to the store, and responses streamed from it."""

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from django.core.files.base import ContentFile

from pulpcore.app.models import Domain
from tests.support.instance import stop, wait_until
from tests.support.orm import Site
from tests.support.server import Server, free_port, serving
from tests.support.stores import Store, azure_settings

pytestmark = pytest.mark.slow

MIB = 1 << 20
BIG = os.urandom(MIB) * 64
SMALL = b"".join(b"line %d\n" % number for number in range(100))
NAME = "dir/per%cent é+&.tar.gz"
FILES = {"a.txt": SMALL, NAME: b"other", "empty": b""}

# Headers that differ by request, and by the time and content of the domain.
IGNORED = {"date", "server", "correlation-id", "last-modified", "surrogate-key", "cache-tag"}


@pytest.fixture(scope="module")
def site(instance, store: Store) -> Iterator[Site]:
    """A domain with the store as its storage."""
    site = Site(store.storage_class, store.settings, {**FILES, "big": BIG})
    yield site
    site.remove()


@pytest.fixture(scope="module")
def local(instance) -> Iterator[Site]:
    """A domain on the local disk with the same small files."""
    location = str(instance.state.media)
    site = Site("pulpcore.app.models.storage.FileSystem", {"location": location}, FILES)
    yield site
    site.remove()


@pytest.fixture
def redirected(site: Site, store: Store) -> Site:
    store.relay.reset()
    site.set(redirect_to_object_storage=True, pulp_labels={})
    return site


@pytest.fixture
def proxied(site: Site, store: Store) -> Site:
    store.relay.reset()
    site.set(redirect_to_object_storage=False, pulp_labels={})
    return site


@pytest.fixture
def broken(store: Store) -> Iterator[Site]:
    """A domain whose objects tests may damage."""
    store.relay.reset()
    site = Site(store.storage_class, store.settings, {"a.txt": SMALL, "b": b"b" * MIB})
    site.set(redirect_to_object_storage=False)
    yield site
    site.remove()


@pytest.fixture(autouse=True)
def check_log_for_secrets(request: pytest.FixtureRequest, domains: Server) -> Iterator[None]:
    """Check after each test that the server's log has no secrets of the store."""
    yield
    if "store" in request.fixturenames:
        said = domains.said()
        assert not [secret for secret in request.getfixturevalue("store").secrets if secret in said]


def request_file(
    server: Server, site: Site, path: str, method: str = "GET", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.content_url}{site.domain.name}/{site.base_path}/{quote(path)}"
    return httpx.request(method, url, headers=named)


def follow(redirect: httpx.Response, method: str = "GET") -> httpx.Response:
    assert redirect.status_code == 302, redirect.text
    return httpx.request(method, redirect.headers["location"])


# Redirects


def test_redirect_to_object_store_has_etag_and_no_store(domains, redirected):
    answer = request_file(domains, redirected, "a.txt")
    assert (answer.status_code, answer.content) == (302, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-pulp-artifact-size"] == str(len(SMALL))
    assert answer.headers["etag"] == f'"{hashlib.sha256(SMALL).hexdigest()}"'


def test_redirect_to_object_store_returns_the_bytes_with_disposition(domains, store, redirected):
    answer = follow(request_file(domains, redirected, NAME))
    assert (answer.status_code, answer.content) == (200, b"other")
    disposition = "attachment; filename=\"per%cent _+&.tar.gz\"; filename*=UTF-8''"
    assert answer.headers["content-disposition"].startswith(disposition)
    if store.name != "google":  # the emulator ignores the type in the URL
        assert answer.headers["content-type"] == "application/gzip"


def test_redirect_to_object_store_has_the_content_type_in_the_query(domains, redirected):
    location = request_file(domains, redirected, NAME).headers["location"]
    values = [value for values in parse_qs(urlsplit(location).query).values() for value in values]
    assert "application/gzip" in values


def test_redirect_of_head_to_object_store_returns_200(domains, store, redirected):
    redirect = request_file(domains, redirected, "a.txt", "HEAD")
    if store.name == "google":  # the emulator does not support HEAD
        assert redirect.status_code == 302
        return
    answer = follow(redirect, "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(SMALL))


@pytest.mark.parametrize("store", ["s3", "google"], indirect=True)
def test_redirect_to_object_store_is_signed_for_the_method(domains, store, redirected):
    """Azure's signatures are valid for all methods."""

    def signature(method: str) -> tuple[list[str], str]:
        """Return the signed time and the signature."""
        query = parse_qs(
            urlsplit(request_file(domains, redirected, "a.txt", method).headers["location"]).query
        )
        time = [value for name, value in query.items() if name.endswith("-Date")]
        return time[0], query[next(name for name in query if name.endswith("-Signature"))][0]

    def within_a_second() -> list[tuple[list[str], str]]:
        signatures = [signature(method) for method in ("GET", "GET", "HEAD")]
        return signatures if len({str(time) for time, _ in signatures}) == 1 else []

    wait_until(lambda: within_a_second())
    (_, get), (_, again), (_, head) = next(filter(None, iter(within_a_second, None)))
    assert get == again
    assert head != get


def test_preconditions_precede_the_redirect_to_object_store(domains, store, redirected):
    etag = f'"{hashlib.sha256(SMALL).hexdigest()}"'
    same = request_file(domains, redirected, "a.txt", If_None_Match=f"W/{etag}")
    assert (same.status_code, same.headers["etag"]) == (304, etag)
    assert "location" not in same.headers
    assert request_file(domains, redirected, "a.txt", If_Match='"other"').status_code == 412
    assert request_file(domains, redirected, "a.txt", If_None_Match='"other"').status_code == 302
    assert store.relay.passed == []


def test_redirect_min_size_of_the_domain_streams_small_files(domains, redirected):
    redirected.set(pulp_labels={"content_star_redirect_min_size": str(len(SMALL))})
    assert request_file(domains, redirected, "a.txt").status_code == 302
    inline = request_file(domains, redirected, NAME)
    assert (inline.status_code, inline.content) == (200, b"other")
    redirected.set(pulp_labels={"content_star_redirect_min_size": "much"})
    assert request_file(domains, redirected, NAME).status_code == 302


# Streaming from the store


ETAG = f'"{hashlib.sha256(SMALL).hexdigest()}"'
REQUESTS = [
    ("a.txt", {}),
    (NAME, {}),
    ("empty", {}),
    ("empty", {"Range": "bytes=-5"}),
    ("empty", {"Range": "bytes=0-"}),
    ("a.txt", {"Range": "bytes=0-9"}),
    ("a.txt", {"Range": "bytes=10-"}),
    ("a.txt", {"Range": "bytes=-7"}),
    ("a.txt", {"Range": "bytes=5-5000"}),
    ("a.txt", {"Range": f"bytes=0-{len(SMALL) - 1}"}),
    ("a.txt", {"Range": "bytes=50-59,0-9,-5"}),
    ("a.txt", {"Range": "bytes=5000-"}),
    ("a.txt", {"Range": "bytes=0-9", "If-Range": ETAG}),
    ("a.txt", {"Range": "bytes=0-9", "If-Range": '"other"'}),
    ("a.txt", {"If-None-Match": ETAG}),
    ("a.txt", {"If-None-Match": '"other"'}),
    ("a.txt", {"If-Match": '"other"'}),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("path", "headers"), REQUESTS)
def test_object_store_response_equals_that_of_the_local_disk(
    domains, proxied, local, path, headers, method
):
    def comparable(site: Site) -> tuple[int, dict[str, str], bytes]:
        answer = request_file(domains, site, path, method, **headers)
        kind = answer.headers.get("content-type", "")
        boundary = kind.partition("boundary=")[2] or "no boundary"
        compared = {
            name: value.replace(boundary, "boundary")
            for name, value in answer.headers.items()
            if name not in IGNORED
        }
        return answer.status_code, compared, answer.content.replace(boundary.encode(), b"boundary")

    assert comparable(proxied) == comparable(local)


def peak_memory(server: Server) -> int:
    """Return the server's peak memory in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def test_object_store_stream_keeps_memory_bounded(domains, proxied):
    assert request_file(domains, proxied, "a.txt").status_code == 200  # all modules are imported
    Path(f"/proc/{domains.process.pid}/clear_refs").write_text("5")
    before = peak_memory(domains)
    answer = request_file(domains, proxied, "big")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(BIG).digest()
    assert peak_memory(domains) - before < 16 * MIB


def test_range_and_multiple_ranges_from_object_store(domains, proxied):
    cuts = [(5, MIB + 5), (40 * MIB, 43 * MIB), (1, 2)]
    ranges = ",".join(f"{start}-{end - 1}" for start, end in cuts)
    answer = request_file(domains, proxied, "big", Range=f"bytes={ranges}")
    assert answer.status_code == 206
    assert int(answer.headers["content-length"]) == len(answer.content)
    position = 0
    for start, end in cuts:
        position = answer.content.index(BIG[start:end], position) + end - start
    one = request_file(domains, proxied, "big", Range=f"bytes={MIB}-{9 * MIB}")
    assert one.content == BIG[MIB : 9 * MIB + 1]


def test_slow_client_pauses_the_store_and_client_disconnect_closes_its_connection(
    domains, store, proxied
):
    relay = store.relay
    address = urlsplit(domains.url)
    path = f"/pulp/content/{proxied.domain.name}/{proxied.base_path}/big"
    if store.name == "google":
        pytest.skip("the emulator serves one connection at a time")
    with socket.create_connection((address.hostname, address.port)) as slow:
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        # While another client receives the whole file, this one's connection fills its buffers.
        assert request_file(domains, proxied, "big").content == BIG
        wait_until(lambda: max(relay.passed) >= len(BIG))
        number = relay.passed.index(min(relay.passed))
        assert relay.passed[number] < len(BIG) // 2
        assert number in relay.open
    wait_until(lambda: number not in relay.open)
    assert relay.passed[number] < len(BIG) // 2


def test_client_disconnect_closes_the_connection_to_the_store(domains, store, proxied):
    relay = store.relay
    address = urlsplit(domains.url)
    path = f"/pulp/content/{proxied.domain.name}/{proxied.base_path}/big"
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    wait_until(lambda: not relay.open)
    assert sum(relay.passed) < len(BIG)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_shutdown_closes_connections_to_the_store(instance, store, proxied, with_domains):
    with serving(instance, **with_domains) as server:
        assert request_file(server, proxied, "big").content == BIG
        stop(server.process)
        wait_until(lambda: not store.relay.open)
        assert "Application shutdown complete" in server.said()
        assert "Unclosed" not in server.said()


# Failures


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_missing_object_returns_404(domains, broken, method):
    artifact = broken.artifact("a.txt")
    broken.domain.get_storage().delete(artifact.file.name)
    answer = request_file(domains, broken, "a.txt", method)
    assert answer.status_code == 404
    if method == "GET":
        assert answer.text == "404: The file is missing from the storage."
    assert f"Artifact is missing or damaged: {artifact.file.name}" in domains.said()


@pytest.mark.parametrize("other", [b"short", SMALL + b"too long"])
def test_object_of_another_size_returns_404(domains, broken, other):
    artifact = broken.artifact("a.txt")
    storage = broken.domain.get_storage()
    storage.delete(artifact.file.name)
    storage.save(artifact.file.name, ContentFile(other))
    for headers in ({}, {"Range": "bytes=0-1"}, {"Range": "bytes=100-200,300-310"}):
        assert request_file(domains, broken, "a.txt", **headers).status_code == 404
    assert request_file(domains, broken, "a.txt", "HEAD").status_code == 404


def unavailable(answer: httpx.Response) -> bool:
    return (
        answer.status_code == 503
        and answer.headers["retry-after"].isdigit()
        and answer.text == "503: The storage is not available."
    )


@pytest.mark.parametrize("status", ["403 Forbidden", "503 Slow Down", "302 Found"])
def test_object_store_error_returns_503(domains, store, broken, status):
    store.relay.reply = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    assert unavailable(request_file(domains, broken, "a.txt"))
    assert f"{broken.artifact('a.txt').file.name} failed: status {status[:3]}" in domains.said()


def test_unreachable_object_store_returns_503(domains, store, broken):
    settings = {
        name: value.replace(str(store.relay.port), str(free_port()))
        if isinstance(value, str)
        else value
        for name, value in store.settings.items()
    }
    domain = Domain.objects.get(pk=broken.domain.pk)
    domain.storage_settings = settings
    domain.save()
    assert unavailable(request_file(domains, broken, "a.txt"))
    domain.storage_settings = store.settings
    domain.save()
    assert request_file(domains, broken, "a.txt").content == SMALL


@pytest.mark.parametrize("store", ["azure"], indirect=True)
def test_object_store_with_wrong_credentials_returns_503(domains, store, broken):
    """Azurite checks signatures."""
    domain = Domain.objects.get(pk=broken.domain.pk)
    domain.storage_settings = azure_settings(store.relay.url, "d3Jvbmcga2V5IQ==")
    domain.save()
    assert unavailable(request_file(domains, broken, "a.txt"))


@pytest.mark.parametrize("store", ["s3", "azure"], indirect=True)
@pytest.mark.parametrize("redirect", [True, False])
def test_invalid_storage_settings_return_503_without_secrets(domains, store, broken, redirect):
    """The invalid value may be a secret."""
    domain = Domain.objects.get(pk=broken.domain.pk)
    domain.redirect_to_object_storage = redirect
    domain.storage_settings = {**store.settings, "endpoint_url": "gibberish"}
    if store.name == "azure":
        domain.storage_settings = azure_settings(store.relay.url, "a secret which is not base64")
    domain.save()
    assert unavailable(request_file(domains, broken, "a.txt"))
    assert "not base64" not in domains.said()


def test_object_store_that_stops_midway_cuts_the_response(domains, store, proxied):
    store.relay.cut_after = MIB
    with pytest.raises(httpx.RemoteProtocolError):
        request_file(domains, proxied, "big")
    wait_until(
        lambda: f"{proxied.artifact('big').file.name} stopped at" in domains.said(),
    )
    store.relay.reset()
    assert request_file(domains, proxied, "big").content == BIG
