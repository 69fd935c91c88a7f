"""Remotes that need more than a URL, or go wrong in ways that a server alone cannot show."""

import asyncio
import gzip
import hashlib
import random
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from pulpcore.content_star.remote import timeouts
from tests.support import remote_server as behave
from tests.support.certificates import Authority
from tests.support.instance import in_venv, wait_until
from tests.support.orm import Site
from tests.support.proxy import PASSWORD, USER, Proxy, serving_proxy
from tests.support.remote_server import Held, Upstream, serving_upstream
from tests.support.server import Server, free_port, running, serving
from tests.support.stores import STORES

BIG = 3_000_000


def spooled(instance) -> list[str]:
    return [path.name for path in Path(instance.state.working_directory).glob("content-*")]


@pytest.fixture(scope="module")
def own(instance) -> Iterator[Server]:
    """A server whose log can be read."""
    with serving(instance) as running:
        yield running


# TLS and proxies


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def secure(authority, tmp_path_factory) -> Iterator[Upstream]:
    """An upstream that nobody but `authority` vouches for, and that wants a certificate of it."""
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
    """Have the first source of a file at another upstream."""
    server.files[file.sources[0]] = file.data
    file.set(url=f"{server.url}{file.sources[0]}")


def test_a_remote_with_its_own_authority_and_a_client_certificate(
    content, remote_file, secure, trust
):
    file = remote_file(**trust)
    move(file, secure)
    assert content.get(file.path).content == file.data
    file.wait_until_saved()
    assert secure.gets[file.sources[0]] == 1


@pytest.mark.parametrize("missing", ["ca_cert", "client_cert", "ca_cert client_cert"])
def test_a_remote_that_cannot_be_trusted_or_does_not_trust_us(
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


def test_a_remote_that_is_not_to_be_verified(content, remote_file, secure, trust):
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


def test_a_remote_behind_a_proxy(content, remote_file, proxy):
    file = remote_file(**behind(proxy))
    assert content.get(file.path).content == file.data
    assert ("GET", f"{file.upstream.url}{file.sources[0]}", True) in proxy.seen


def test_a_secure_remote_behind_a_proxy(content, remote_file, secure, trust, proxy):
    file = remote_file(**trust, **behind(proxy))
    move(file, secure)
    assert content.get(file.path).content == file.data
    assert ("CONNECT", secure.url.split("/")[2], True) in proxy.seen


def test_a_proxy_that_refuses(own, remote_file, proxy):
    file = remote_file(**behind(proxy, "another-secret"))
    answer = httpx.get(own.content_url + file.path, trust_env=False, timeout=60)
    assert answer.status_code == 502
    assert "407" in own.said()
    assert "another-secret" not in own.said() + answer.text
    assert file.gets == [0]


# Time


def test_a_remote_that_accepts_no_connection_makes_way(content, remote_file, silent):
    file = remote_file(sock_connect_timeout=0.2)
    file.set(url=f"{silent}{file.sources[0]}")
    assert content.get(file.path).status_code == 504
    file.add_source()
    assert content.get(file.path).content == file.data


def test_a_remote_that_does_not_answer_makes_way(content, remote_file):
    file = remote_file(sock_read_timeout=0.2)
    file.behave(behave.hanging)
    assert content.get(file.path).status_code == 504
    file.add_source()
    assert content.get(file.path).content == file.data
    wait_until(lambda: file.upstream.open == 0)


def test_a_remote_that_stops_in_the_middle_makes_way(content, remote_file):
    file = remote_file(BIG, sock_read_timeout=0.2)
    file.behave(Held(1_000_000))
    file.add_source()
    assert content.get(file.path).content == file.data
    assert file.gets[1] == 1
    wait_until(lambda: file.upstream.open == 0)


def test_a_remote_without_timeouts_does_not_hang_for_ever(here, remote_file, monkeypatch):
    monkeypatch.setattr(timeouts, "FIRST_BYTE_TIMEOUT", 0.5)
    file = remote_file()
    file.behave(behave.hanging)
    assert here(file.path).status_code == 504
    monkeypatch.undo()
    file.add_source()
    assert here(file.path).content == file.data


def test_no_more_remotes_are_asked_when_it_has_taken_long(here, remote_file, monkeypatch):
    from pulpcore.content_star.remote import download

    monkeypatch.setattr(timeouts, "FIRST_BYTE_TIMEOUT", 0.5)
    monkeypatch.setattr(download, "FAILOVER_TIMEOUT", 0.0)
    file = remote_file()
    file.behave(behave.hanging)
    file.add_source()
    assert here(file.path).status_code == 504
    assert file.gets == [1, 0]


@pytest.mark.parametrize("at", [0, 1_000_000])
def test_a_remote_that_dribbles_makes_way(here, remote_file, monkeypatch, at):
    monkeypatch.setattr(timeouts, "STALL_WINDOW", 1.0)
    file = remote_file(BIG)

    async def dribble(request, data):
        monkeypatch.undo()  # the next one may take its time
        return await behave.dribbling(at)(request, data)

    file.behave(dribble)
    file.add_source()
    assert here(file.path).content == file.data
    assert file.gets == [1, 1]


def test_a_remote_that_was_given_more_time_has_it(here, remote_file, monkeypatch):
    monkeypatch.setattr(timeouts, "FIRST_BYTE_TIMEOUT", 0.1)
    file = remote_file(sock_read_timeout=20)

    async def late(request, data):
        await asyncio.sleep(0.5)
        return await behave.plain(request, data)

    file.behave(late)
    assert here(file.path).content == file.data
    assert file.gets == [1]


# Content-Encoding

IN_CHUNKS = behave.in_chunks(behave.said_to_be_encoded)


def compressed(file) -> None:
    """Make it a compressed file, which its digest is of."""
    file.data = gzip.compress(file.data)
    for source in file.sources:
        file.upstream.files[source] = file.data
    file.set(sha256=hashlib.sha256(file.data).hexdigest(), size=len(file.data))


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize("behaviour", [behave.said_to_be_encoded, IN_CHUNKS])
def test_a_compressed_file_stays_as_its_digest_says(content, remote_file, behaviour, knows_size):
    file = remote_file(400_000)
    compressed(file)
    file.behave(behaviour)
    if not knows_size:
        file.set(size=None)
    answer = content.get(file.path)
    assert answer.content == file.data
    assert "Content-Encoding" not in answer.headers
    file.wait_until_saved()
    assert content.get(file.path).content == file.data
    assert file.gets == [1]


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize("behaviour", [behave.encoded, behave.in_chunks(behave.encoded)])
def test_an_encoding_is_undone_where_the_digest_says_so(
    content, remote_file, behaviour, knows_size
):
    file = remote_file(2_000_000)
    file.behave(behaviour)
    if not knows_size:
        file.set(size=None)
    answer = content.get(file.path)
    assert answer.content == file.data
    assert "Content-Encoding" not in answer.headers
    file.wait_until_saved()
    assert file.gets == [1]


@pytest.mark.parametrize("knows_size", [True, False])
@pytest.mark.parametrize("behaviour", [behave.encoded, behave.in_chunks(behave.encoded)])
def test_an_encoding_of_wrong_bytes(content, remote_file, instance, behaviour, knows_size):
    file = remote_file(5000)
    file.upstream.files[file.sources[0]] = file.data[:-1]
    file.behave(behaviour)
    if not knows_size:
        file.set(size=None)
    assert content.get(file.path).status_code == 502
    assert file.artifact is None
    assert file.remote_artifacts[0].failed_at
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_an_encoding_that_is_none(content, remote_file, encoding):
    file = remote_file(5000)

    async def lying(request, data):
        return web.Response(body=random.randbytes(100), headers={"Content-Encoding": encoding})

    file.behave(lying)
    assert content.get(file.path).status_code == 502
    file.add_source()
    assert content.get(file.path).content == file.data


def test_an_encoding_that_does_not_end(content, remote_file, instance):
    """Nobody has said how long it is when it is encoded; the file's own size is a bound to it."""
    file = remote_file(5000)

    async def endless(request, data):
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(bytes(100_000))
        return response

    file.behave(endless)
    assert content.get(file.path).status_code == 502
    assert file.remote_artifacts[0].failed_at
    wait_until(lambda: file.upstream.open == 0)
    wait_until(lambda: spooled(instance) == [])


def test_redirects_are_followed(content, remote_file):
    file, other = remote_file(), remote_file()

    async def elsewhere(request, data):
        raise web.HTTPFound(f"/{other.sources[0]}")

    other.upstream.files[other.sources[0]] = file.data
    file.behave(elsewhere)
    assert content.get(file.path).content == file.data
    file.wait_until_saved()
    assert (file.gets, other.gets) == ([1], [1])


# What Pulp knows and does


@pytest.mark.parametrize("second", ["on_demand", "streamed"])
@pytest.mark.parametrize("behaviour", [behave.status(404), behave.truncated(1_000_000)])
def test_it_is_saved_if_the_remote_that_ends_it_wants_that(
    content, remote_file, instance, behaviour, second
):
    file = remote_file(BIG, policy="on_demand" if second == "streamed" else "streamed")
    file.behave(behaviour)
    file.add_source(policy=second)
    assert content.get(file.path).content == file.data
    if second == "on_demand":
        file.wait_until_saved()
    else:
        assert content.get(file.path).content == file.data
        assert file.gets[1] == 2
        assert file.artifact is None
    wait_until(lambda: spooled(instance) == [])


def test_a_digest_that_this_pulp_does_not_trust(content, remote_file):
    file = remote_file()
    file.set(sha256=None, md5=hashlib.md5(file.data).hexdigest())
    assert content.get(file.path).status_code == 502
    file.add_source()
    assert content.get(file.path).content == file.data
    assert file.gets == [0, 1]


def by_another_digest(file) -> None:
    """Have its remotes announce its sha512 instead of its sha256."""
    digest = hashlib.sha512(file.data).hexdigest()
    file.content_artifact.remoteartifact_set.update(sha256=None, sha512=digest)


def test_what_is_known_by_another_digest_comes_as_it_comes(content, remote_file):
    file = remote_file(BIG)
    by_another_digest(file)
    held = Held(1_000_000)
    file.behave(held)
    assert content.head(file.path).headers["Content-Length"] == str(BIG)
    assert file.gets == [0]
    part = content.get(file.path, headers={"Range": "bytes=1000-299999"})
    assert part.content == file.data[1000:300_000]
    assert "ETag" not in part.headers, "nobody knows the sha256 yet"
    held.release()
    file.wait_until_saved()
    assert content.get(file.path).headers["ETag"]
    assert file.gets == [1]


def test_what_is_known_by_another_digest_is_gone_on_with(content, remote_file):
    file = remote_file(BIG)
    file.behave(behave.truncated(1_000_000))
    file.add_source()
    file.behave(behave.ranges, source=1)
    by_another_digest(file)
    assert content.get(file.path).content == file.data
    assert "Range" in file.upstream.seen[-1].headers
    file.wait_until_saved()


def test_wrong_bytes_by_another_digest(content, remote_file):
    file = remote_file(BIG)
    file.behave(behave.wrong)
    by_another_digest(file)
    with pytest.raises(httpx.RemoteProtocolError):
        content.get(file.path)
    wait_until(lambda: file.remote_artifacts[0].failed_at)
    assert file.artifact is None


def test_content_that_is_removed_while_its_file_is_fetched(own, instance, remote_file):
    from pulpcore.app.models import Artifact, RepositoryContent

    file = remote_file(BIG)
    held = Held(1_000_000)
    file.behave(held)
    url = own.content_url + file.path
    with httpx.stream("GET", url, trust_env=False, timeout=60) as response:
        chunks = response.iter_raw()
        got = next(chunks)
        unit = file.content_artifact.content
        RepositoryContent.objects.filter(content=unit).delete()
        unit.delete()
        held.release()
        assert got + b"".join(chunks) == file.data
    wait_until(lambda: "was removed while its file was fetched" in own.said())
    assert "Traceback" not in own.said()
    assert not Artifact.objects.filter(sha256=hashlib.sha256(file.data).hexdigest()).exists()
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize("delay", [0, 1])
def test_an_artifact_that_orphan_cleanup_removes_while_it_would_be_used(
    content, remote_file, delay
):
    """It removes the file after it has committed, be that some seconds later."""
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
            committed.wait(60)
        connection.close()

    cleaning = threading.Thread(target=clean_up)
    cleaning.start()
    deleted.wait(60)
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


def test_a_disk_that_is_full(instance, remote_file):
    """A limit to the size of files stands for it: to write fails all the same."""
    big, small = remote_file(BIG), remote_file(5000)
    port = free_port()
    server = in_venv(["uvicorn", "pulpcore.routing:application", "--port", str(port)])
    command = ["prlimit", "--fsize=1000000", *server]
    with running(instance, command, f"http://127.0.0.1:{port}") as own:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(own.content_url + big.path, trust_env=False, timeout=60)
        assert "WORKING_DIRECTORY failed" in own.said()
        answer = httpx.get(own.content_url + small.path, trust_env=False, timeout=60)
        assert answer.content == small.data
    assert big.remote_artifacts[0].failed_at is None, "it is no fault of the remote's"
    assert big.artifact is None
    wait_until(lambda: spooled(instance) == [])


def test_a_file_is_saved_in_object_storage(instance, domains, remote_file):
    with STORES["s3"]() as store:
        site = Site(store.storage_class, store.settings, {})
        site.set(redirect_to_object_storage=False)
        try:
            file = remote_file(BIG, domain=site.domain)
            url = f"{domains.content_url}{site.domain.name}/{file.path}"
            assert httpx.get(url, trust_env=False, timeout=60).content == file.data
            file.wait_until_saved()
            store.relay.reset()
            assert httpx.get(url, trust_env=False, timeout=60).content == file.data
            wait_until(lambda: sum(store.relay.passed) > BIG)  # it comes from the store
            assert file.gets == [1]
            wait_until(lambda: spooled(instance) == [])
        finally:
            remote_file.__self__.cleanup()
            site.remove()
