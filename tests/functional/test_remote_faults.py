"""Remotes with TLS and proxies, timeouts, encodings, and faults of database, disk and storage."""

import asyncio
import gzip
import hashlib
import random
import ssl
import threading
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from aiohttp import web

from pulpcore.content_star.remote import timeouts
from tests.support import remote_server
from tests.support.certificates import Authority
from tests.support.instance import in_venv, wait_until
from tests.support.orm import Site
from tests.support.proxy import PASSWORD, USER, Proxy, serving_proxy
from tests.support.remote_files import spooled
from tests.support.remote_server import PausedResponse, Upstream, serving_upstream
from tests.support.server import Server, free_port, running, serving
from tests.support.stores import STORES

pytestmark = pytest.mark.slow

BIG = 3_000_000


@pytest.fixture(scope="module")
def own(instance) -> Iterator[Server]:
    """A server for this module, for tests that read its log."""
    with serving(instance) as running:
        yield running


# TLS and proxies


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def secure(authority, tmp_path_factory) -> Iterator[Upstream]:
    """An HTTPS upstream with a certificate of `authority`, which requires a client certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = authority.pair()
    for name, pem in {"certificate": certificate, "key": key, "ca": authority.pem}.items():
        (folder / name).write_text(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca")
    context.load_cert_chain(folder / "certificate", folder / "key")
    context.verify_mode = ssl.CERT_REQUIRED
    with serving_upstream(context) as server:
        yield server


@pytest.fixture
def trust(authority) -> dict[str, str]:
    certificate, key = authority.pair()
    return {"ca_cert": authority.pem, "client_cert": certificate, "client_key": key}


def move(file, server: Upstream) -> None:
    """Move the first source of a file to another upstream."""
    server.files[file.sources[0]] = file.data
    file.set(url=f"{server.url}{file.sources[0]}")


def test_tls_remote_with_ca_and_client_certificate_is_fetched(content, remote_file, secure, trust):
    file = remote_file(**trust)
    move(file, secure)
    assert content.get(file.path).content == file.data
    file.wait_until_saved()
    assert secure.gets[file.sources[0]] == 1


@pytest.mark.parametrize("missing", ["ca_cert", "client_cert", "ca_cert client_cert"])
def test_tls_remote_without_trusted_certificates_returns_502(
    content, remote_file, secure, trust, missing
):
    given = {name: value for name, value in trust.items() if name not in missing.split()}
    if "ca_cert" in missing:
        given["ca_cert"] = Authority().pem
    file = remote_file(**given)
    move(file, secure)
    assert content.get(file.path).status_code == 502
    file.add_source()
    assert content.get(file.path).content == file.data
    assert (secure.gets[file.sources[0]], file.gets) == (0, [0, 1])


def test_tls_remote_without_validation_is_fetched(content, remote_file, secure, trust):
    del trust["ca_cert"]
    file = remote_file(**trust, tls_validation=False)
    move(file, secure)
    assert content.get(file.path).content == file.data


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with serving_proxy() as running:
        yield running


def behind(proxy: Proxy, password: str = PASSWORD) -> dict[str, str]:
    return {"proxy_url": proxy.url, "proxy_username": USER, "proxy_password": password}


def test_proxy_of_http_remote_is_used_with_credentials(content, remote_file, proxy):
    file = remote_file(**behind(proxy))
    assert content.get(file.path).content == file.data
    assert ("GET", f"{file.upstream.url}{file.sources[0]}", True) in proxy.seen


def test_proxy_of_https_remote_is_used_with_connect(content, remote_file, secure, trust, proxy):
    file = remote_file(**trust, **behind(proxy))
    move(file, secure)
    assert content.get(file.path).content == file.data
    assert ("CONNECT", secure.url.split("/")[2], True) in proxy.seen


def test_proxy_that_refuses_credentials_returns_502_without_secrets(own, remote_file, proxy):
    file = remote_file(**behind(proxy, "another-secret"))
    answer = httpx.get(own.content_url + file.path)
    assert answer.status_code == 502
    assert "407" in own.said()
    assert "another-secret" not in own.said() + answer.text
    assert file.gets == [0]


# Timeouts


def test_connect_timeout_fails_over_to_the_next_remote(content, remote_file, silent):
    file = remote_file(sock_connect_timeout=0.2)
    file.set(url=f"{silent}{file.sources[0]}")
    assert content.get(file.path).status_code == 504
    file.add_source()
    assert content.get(file.path).content == file.data


def test_read_timeout_fails_over_to_the_next_remote(content, remote_file):
    file = remote_file(sock_read_timeout=0.2)
    file.set_behaviour(remote_server.hanging)
    assert content.get(file.path).status_code == 504
    file.add_source()
    assert content.get(file.path).content == file.data
    wait_until(lambda: file.upstream.open == 0)


def test_read_timeout_within_the_body_fails_over_to_the_next_remote(content, remote_file):
    file = remote_file(BIG, sock_read_timeout=0.2)
    file.set_behaviour(PausedResponse(1_000_000))
    file.add_source()
    assert content.get(file.path).content == file.data
    assert file.gets[1] == 1
    wait_until(lambda: file.upstream.open == 0)


def test_first_byte_timeout_ends_a_remote_without_timeouts(
    get_in_process, remote_file, monkeypatch
):
    monkeypatch.setattr(timeouts, "FIRST_BYTE_TIMEOUT", 0.5)
    file = remote_file()
    file.set_behaviour(remote_server.hanging)
    assert get_in_process(file.path).status_code == 504
    monkeypatch.undo()
    file.add_source()
    assert get_in_process(file.path).content == file.data


def test_failover_timeout_tries_no_further_remotes(get_in_process, remote_file, monkeypatch):
    from pulpcore.content_star.remote import download

    monkeypatch.setattr(timeouts, "FIRST_BYTE_TIMEOUT", 0.5)
    monkeypatch.setattr(download, "FAILOVER_TIMEOUT", 0.0)
    file = remote_file()
    file.set_behaviour(remote_server.hanging)
    file.add_source()
    assert get_in_process(file.path).status_code == 504
    assert file.gets == [1, 0]


@pytest.mark.parametrize("at", [0, 1_000_000])
def test_stall_timeout_of_a_dripping_remote_fails_over(
    get_in_process, remote_file, monkeypatch, at
):
    monkeypatch.setattr(timeouts, "STALL_WINDOW", 1.0)
    file = remote_file(BIG)

    async def drip(request, data):
        monkeypatch.undo()  # no limit for the next remote
        return await remote_server.dripping(at)(request, data)

    file.set_behaviour(drip)
    file.add_source()
    assert get_in_process(file.path).content == file.data
    assert file.gets == [1, 1]


def test_read_timeout_of_the_remote_overrides_first_byte_timeout(
    get_in_process, remote_file, monkeypatch
):
    monkeypatch.setattr(timeouts, "FIRST_BYTE_TIMEOUT", 0.1)
    file = remote_file(sock_read_timeout=20)

    async def late(request, data):
        await asyncio.sleep(0.5)
        return await remote_server.plain(request, data)

    file.set_behaviour(late)
    assert get_in_process(file.path).content == file.data
    assert file.gets == [1]


# Content-Encoding

CHUNKED_MISLABELLED = remote_server.without_length(remote_server.mislabelled_as_gzip)


def compress_file(file) -> None:
    """Replace the file by its gzip form, with the digest of that."""
    file.data = gzip.compress(file.data)
    for source in file.sources:
        file.upstream.files[source] = file.data
    file.set(sha256=hashlib.sha256(file.data).hexdigest(), size=len(file.data))


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize("behaviour", [remote_server.mislabelled_as_gzip, CHUNKED_MISLABELLED])
def test_content_encoding_of_a_gzip_file_is_not_decoded(
    content, remote_file, behaviour, knows_size
):
    file = remote_file(400_000)
    compress_file(file)
    file.set_behaviour(behaviour)
    if not knows_size:
        file.set(size=None)
    answer = content.get(file.path)
    assert answer.content == file.data
    assert "Content-Encoding" not in answer.headers
    file.wait_until_saved()
    assert content.get(file.path).content == file.data
    assert file.gets == [1]


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize(
    "behaviour",
    [remote_server.gzip_encoded, remote_server.without_length(remote_server.gzip_encoded)],
)
def test_content_encoding_is_decoded_where_the_digest_is_of_decoded_bytes(
    content, remote_file, behaviour, knows_size
):
    file = remote_file(2_000_000)
    file.set_behaviour(behaviour)
    if not knows_size:
        file.set(size=None)
    answer = content.get(file.path)
    assert answer.content == file.data
    assert "Content-Encoding" not in answer.headers
    file.wait_until_saved()
    assert file.gets == [1]


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize(
    "behaviour",
    [remote_server.gzip_encoded, remote_server.without_length(remote_server.gzip_encoded)],
)
def test_content_encoding_with_digest_mismatch_returns_502(
    content, remote_file, instance, behaviour, knows_size
):
    file = remote_file(5000)
    file.upstream.files[file.sources[0]] = file.data[:-1]
    file.set_behaviour(behaviour)
    if not knows_size:
        file.set(size=None)
    assert content.get(file.path).status_code == 502
    assert file.artifact is None
    assert file.remote_artifacts[0].failed_at
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_content_encoding_that_does_not_decode_fails_over(content, remote_file, encoding):
    file = remote_file(5000)

    async def lying(request, data):
        return web.Response(body=random.randbytes(100), headers={"Content-Encoding": encoding})

    file.set_behaviour(lying)
    assert content.get(file.path).status_code == 502
    file.add_source()
    assert content.get(file.path).content == file.data


def test_content_encoding_of_an_endless_body_returns_502(content, remote_file, instance):
    """The encoded length is unknown; the known size of the file bounds it."""
    file = remote_file(5000)

    async def endless(request, data):
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(bytes(100_000))
        return response

    file.set_behaviour(endless)
    assert content.get(file.path).status_code == 502
    assert file.remote_artifacts[0].failed_at
    wait_until(lambda: file.upstream.open == 0)
    wait_until(lambda: spooled(instance) == [])


def test_redirect_of_remote_is_followed(content, remote_file):
    file, other = remote_file(), remote_file()

    async def elsewhere(request, data):
        raise web.HTTPFound(f"/{other.sources[0]}")

    other.upstream.files[other.sources[0]] = file.data
    file.set_behaviour(elsewhere)
    assert content.get(file.path).content == file.data
    file.wait_until_saved()
    assert (file.gets, other.gets) == ([1], [1])


# Digests, database, disk and storage


@pytest.mark.parametrize("second", ["on_demand", "streamed"])
@pytest.mark.parametrize(
    "behaviour", [remote_server.status(404), remote_server.truncated(1_000_000)]
)
def test_policy_of_the_last_remote_decides_about_saving(
    content, remote_file, instance, behaviour, second
):
    file = remote_file(BIG, policy="on_demand" if second == "streamed" else "streamed")
    file.set_behaviour(behaviour)
    file.add_source(policy=second)
    assert content.get(file.path).content == file.data
    if second == "on_demand":
        file.wait_until_saved()
    else:
        assert content.get(file.path).content == file.data
        assert file.gets[1] == 2
        assert file.artifact is None
    wait_until(lambda: spooled(instance) == [])


def test_forbidden_digest_alone_fails_over_to_the_next_remote(content, remote_file):
    file = remote_file()
    file.set(sha256=None, md5=hashlib.md5(file.data).hexdigest())
    assert content.get(file.path).status_code == 502
    file.add_source()
    assert content.get(file.path).content == file.data
    assert file.gets == [0, 1]


def announce_sha512(file) -> None:
    """Set the sha512 digest of its remote artifacts instead of the sha256."""
    digest = hashlib.sha512(file.data).hexdigest()
    file.content_artifact.remoteartifact_set.update(sha256=None, sha512=digest)


def test_file_known_by_sha512_has_no_etag_during_the_fetch(content, remote_file):
    file = remote_file(BIG)
    announce_sha512(file)
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    assert content.head(file.path).headers["Content-Length"] == str(BIG)
    assert file.gets == [0]
    part = content.get(file.path, headers={"Range": "bytes=1000-299999"})
    assert part.content == file.data[1000:300_000]
    assert "ETag" not in part.headers, "the sha256 is not known yet"
    paused.release()
    file.wait_until_saved()
    assert content.get(file.path).headers["ETag"]
    assert file.gets == [1]


def test_file_known_by_sha512_is_resumed_with_a_range(content, remote_file):
    file = remote_file(BIG)
    file.set_behaviour(remote_server.truncated(1_000_000))
    file.add_source()
    file.set_behaviour(remote_server.ranges, source=1)
    announce_sha512(file)
    assert content.get(file.path).content == file.data
    assert "Range" in file.upstream.seen[-1].headers
    file.wait_until_saved()


def test_sha512_mismatch_cuts_the_response(content, remote_file):
    file = remote_file(BIG)
    file.set_behaviour(remote_server.wrong_bytes)
    announce_sha512(file)
    with pytest.raises(httpx.RemoteProtocolError):
        content.get(file.path)
    wait_until(lambda: file.remote_artifacts[0].failed_at)
    assert file.artifact is None


def test_content_removed_during_the_fetch_is_served_and_not_saved(own, instance, remote_file):
    from pulpcore.app.models import Artifact, RepositoryContent

    file = remote_file(BIG)
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    url = own.content_url + file.path
    with httpx.stream("GET", url) as response:
        chunks = response.iter_raw()
        got = next(chunks)
        unit = file.content_artifact.content
        RepositoryContent.objects.filter(content=unit).delete()
        unit.delete()
        paused.release()
        assert got + b"".join(chunks) == file.data
    wait_until(lambda: "was removed while its file was fetched" in own.said())
    assert "Traceback" not in own.said()
    assert not Artifact.objects.filter(sha256=hashlib.sha256(file.data).hexdigest()).exists()
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize("delay", [0, 1])
def test_artifact_removed_by_orphan_cleanup_during_the_save_is_saved_again(
    content, remote_file, delay
):
    """Orphan cleanup deletes the file after its commit, or some time later."""
    from django.db import connection, transaction

    from tests.support.orm import artifact

    file = remote_file()
    old = artifact(file.data)
    deleted, committed = threading.Event(), threading.Event()

    def clean_up() -> None:
        with transaction.atomic():
            transaction.on_commit(partial(threading.Event().wait, delay))
            old.delete()
            deleted.set()
            committed.wait(300)
        connection.close()

    cleaning = threading.Thread(target=clean_up)
    cleaning.start()
    deleted.wait(300)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    assert content.get(file.path).content == file.data
    with connection.cursor() as cursor:
        wait_until(lambda: (cursor.execute(waiting), cursor.fetchone())[1])
    committed.set()
    file.wait_until_saved()
    cleaning.join()
    assert file.artifact.pk != old.pk
    wait_until(lambda: file.artifact.file.storage.exists(file.artifact.file.name))
    assert content.get(file.path).content == file.data
    assert file.gets == [1]


def test_full_disk_cuts_the_response_and_blames_no_remote(instance, remote_file):
    """A limit of the file size (RLIMIT_FSIZE) has writes fail as a full disk does."""
    big, small = remote_file(BIG), remote_file(5000)
    port = free_port()
    server = in_venv(["uvicorn", "pulpcore.routing:application", "--port", str(port)])
    command = ["prlimit", "--fsize=1000000", *server]
    with running(instance, command, f"http://127.0.0.1:{port}") as own:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(own.content_url + big.path)
        assert "WORKING_DIRECTORY failed" in own.said()
        answer = httpx.get(own.content_url + small.path)
        assert answer.content == small.data
    assert big.remote_artifacts[0].failed_at is None, "not the remote's fault"
    assert big.artifact is None
    wait_until(lambda: spooled(instance) == [])


def test_on_demand_file_is_saved_in_object_storage(instance, domains, remote_file):
    with STORES["s3"]() as store:
        site = Site(store.storage_class, store.settings, {})
        site.set(redirect_to_object_storage=False)
        try:
            file = remote_file(BIG, domain=site.domain)
            url = f"{domains.content_url}{site.domain.name}/{file.path}"
            assert httpx.get(url).content == file.data
            file.wait_until_saved()
            store.relay.reset()
            assert httpx.get(url).content == file.data
            wait_until(lambda: sum(store.relay.passed) > BIG)  # read from the object store
            assert file.gets == [1]
            wait_until(lambda: spooled(instance) == [])
        finally:
            remote_file.__self__.cleanup()
            site.remove()
