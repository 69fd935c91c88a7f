"""Invalidation of the response cache: no response is older than the last commit."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pulp_file.app.models import FileDistribution
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pulpcore.app.models import ContentArtifact, Distribution, HeaderContentGuard, Publication
from pulpcore.content_star.cache.entries import CacheKey
from pulpcore.content_star.cache.fast_path import FastPath
from pulpcore.content_star.cache.invalidation.listener import (
    APPLICATION_NAME,
    NO_CONNECTION,
    NO_LISTEN,
    NO_TRIGGERS,
    SYNC_PREFIX,
)
from pulpcore.content_star.cache.invalidation.signals import signal_invalidation
from pulpcore.content_star.cache.invalidation.triggers import CHANNEL
from pulpcore.content_star.cache.policy import CacheWrite
from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.content_star.content import MAX_BATCH, Content
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.distributions.publication import PublicationApp
from pulpcore.content_star.middleware.cdn_headers import CDNHeaders
from pulpcore.content_star.middleware.errors import Errors
from pulpcore.content_star.middleware.normalize_path import NormalizePath
from pulpcore.content_star.resolve.paths import ContentPath
from pulpcore.content_star.storage.memory import MAX_CACHED_SIZE
from pulpcore.content_star.views import respond
from tests.support.asgi import get, get_raw
from tests.support.instance import Instance, wait_until
from tests.support.pgbouncer import pgbouncer
from tests.support.server import serving

pytestmark = pytest.mark.usefixtures("orm")

CACHE_ENABLED = "Response cache enabled"


def current(cache: ResponseCache) -> ResponseCache:
    """Return `cache`, confirmed as current for ever, without a listener."""
    cache.confirm(float("inf"))
    return cache


@pytest.fixture
def cache():
    return current(ResponseCache(100, 1 << 20))


@pytest.fixture
def cached_app(cache):
    """The content app in this process, with a cache that only this process's signals invalidate."""
    executor = DatabaseExecutor(threads=2)
    with signal_invalidation(cache):
        prefix = settings.CONTENT_PATH_PREFIX
        content = NormalizePath(Content(executor, prefix, cache), prefix)
        yield FastPath(CDNHeaders(Errors(content)), cache, prefix)
    asyncio.run(executor.close())


def queries_of(cache: ResponseCache, path: str) -> list[str]:
    """Answer GET `path` without a cache entry, and return the SQL queries."""
    scope = {"type": "http", "method": "GET", "path": f"/pulp/content/{path}"}
    request = Request({**scope, "headers": [], "query_string": b""})
    with CaptureQueriesContext(connection) as queries, contextlib.suppress(Exception):
        respond(
            request,
            ContentPath("default", path),
            CacheWrite(cache, CacheKey(path, "GET", json=False)),
        )
    return [query["sql"] for query in queries]


def test_cache_miss_below_a_cached_distribution_takes_one_query(orm, cache):
    version = orm.version({"a/1.rpm": b"1", "a/2.rpm": b"2"})
    base = orm.distribution(from_publication=False, repository_version=version)
    cold = queries_of(cache, f"{base}/a/1.rpm")
    assert len(cold) > 1
    assert len(queries_of(cache, f"{base}/a/2.rpm")) == 1


def test_cache_miss_of_pass_through_publication_takes_one_query(orm, cache):
    version = orm.version({"a/1.rpm": b"1", "a/2.rpm": b"2"})
    base = orm.distribution(publication=orm.publication({"repomd.xml": b"x"}, version))
    queries_of(cache, f"{base}/a/1.rpm")
    assert len(queries_of(cache, f"{base}/repomd.xml")) == 1
    assert len(queries_of(cache, f"{base}/a/2.rpm")) == 1


class CountingExecutor(DatabaseExecutor):
    """Counts its runs."""

    runs = 0

    async def run_directly(self, work, *args, **kwargs):
        self.runs += 1
        return await super().run_directly(work, *args, **kwargs)


@pytest.fixture
def get_concurrently(cache):
    """Return a function that GETs paths concurrently: responses, and runs of the executor."""

    def ask(paths: list[str]) -> tuple[list[httpx.Response], int]:
        async def gather() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
                return await asyncio.gather(*(client.get(f"/pulp/content/{p}") for p in paths))

        executor = CountingExecutor(threads=2)
        app = Errors(Content(executor, settings.CONTENT_PATH_PREFIX, cache))
        responses = asyncio.run(gather())
        asyncio.run(executor.close())
        return responses, executor.runs

    return ask


@pytest.mark.parametrize("kind", ["publication", "version"])
def test_batch_of_concurrent_cache_misses_shares_a_query(
    orm, cache, get_concurrently, monkeypatch, kind
):
    names = [f"{number}.bin" for number in range(MAX_BATCH + 8)]
    version = orm.version({name: name.encode() for name in names})
    if kind == "version":
        monkeypatch.setattr(FileDistribution, "SERVE_FROM_PUBLICATION", False)
        base = orm.distribution(repository_version=version)
    else:
        base = orm.distribution(publication=orm.publication({}, version))
    (first,), runs = get_concurrently([f"{base}/0.bin"])
    assert (first.text, runs) == ("0.bin", 1)
    paths = [f"{base}/{name}" for name in names[1:]]
    responses, runs = get_concurrently(paths)
    assert [response.text for response in responses] == names[1:]
    assert runs == 2, "one for each batch"
    responses, runs = get_concurrently(paths)
    assert [response.text for response in responses] == names[1:]
    assert runs == 0


def test_batch_leaves_missing_and_failing_paths_to_runs_of_their_own(
    orm, cache, get_concurrently, monkeypatch
):
    base = orm.distribution(publication=orm.publication({"a": b"a", "b": b"b", "sub/c": b"c"}))
    get_concurrently([f"{base}/a"])
    plain = PublicationApp.extra_headers

    def extra_headers(self, path):
        if path == "b":
            raise HTTPException(418)
        return plain(self, path)

    monkeypatch.setattr(PublicationApp, "extra_headers", extra_headers)
    cache.invalidate_all()
    get_concurrently([f"{base}/a"])
    paths = ["sub/c", "b", "nothing", "sub", "sub/", ""]
    responses, runs = get_concurrently([f"{base}/{path}" for path in paths])
    assert [response.status_code for response in responses] == [200, 418, 404, 301, 200, 200]
    assert responses[0].text == "c"
    assert runs == 1 + 5


def test_batch_below_a_distribution_of_nothing_returns_404(orm, cache, get_concurrently):
    base = orm.distribution()
    for _ in range(2):
        responses, _ = get_concurrently([f"{base}/{path}" for path in "abc"])
        assert [response.status_code for response in responses] == [404] * 3


def test_batch_excludes_guarded_distributions(orm, cache, get_concurrently):
    guard = HeaderContentGuard(name=orm.unique(), header_name="X-Key", header_value="secret")
    orm._save(guard)
    publication = orm.publication({"a": b"a", "b": b"b", "c": b"c"})
    base = orm.distribution(publication=publication, content_guard=guard)
    get_concurrently([f"{base}/a"])
    responses, runs = get_concurrently([f"{base}/{path}" for path in "abc"])
    assert [response.status_code for response in responses] == [403] * 3
    assert runs == 3


@pytest.mark.parametrize("path", ["a.bin", "sub", "", "nothing.bin"])
def test_cache_hit_equals_the_miss_and_takes_no_query(orm, cached_app, cache, path):
    files = {"a.bin": b"a", "sub/b.bin": b"b", "index.html": b"<p>"}
    base = orm.distribution(publication=orm.publication(files))
    cold = get(cached_app, f"/pulp/content/{base}/{path}")
    entry = cache.get(CacheKey(f"{base}/{path}", "GET", json=False))
    assert entry is not None and entry.is_public, "served by the fast path"
    warm = get(cached_app, f"/pulp/content/{base}/{path}")
    assert (warm.status_code, warm.content) == (cold.status_code, cold.content)
    assert warm.headers == cold.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("accept", ["*/*", "application/json"])
@pytest.mark.parametrize(
    "requested",
    [
        {},
        {"If-None-Match": "{etag}"},
        {"If-None-Match": 'W/{etag}, "other"'},
        {"If-None-Match": '"other"'},
        {"If-Match": '"other"'},
        {"If-None-Match": "{etag}", "If-Match": '"other"'},
        {"Range": "bytes=0-3"},
        {"Range": "bytes=100-"},
    ],
)
def test_fast_path_response_equals_the_uncached_one(
    orm, cached_app, app, method, accept, requested
):
    """With all conditional and range headers, as GET and HEAD."""
    base = orm.distribution(publication=orm.publication({"a.bin": b"0123456789"}))
    url = f"/pulp/content/{base}/a.bin"
    etag = get(app, url).headers["ETag"]
    headers = {name: value.format(etag=etag) for name, value in requested.items()}
    cold = get(app, url, {"Accept": accept, **headers}, method=method)
    for _ in range(3):
        get(cached_app, url, {"Accept": accept}, method=method)
        warm = get(cached_app, url, {"Accept": accept, **headers}, method=method)
        assert (warm.status_code, warm.content) == (cold.status_code, cold.content)
        assert dict(warm.headers) == {
            name: value for name, value in cold.headers.items() if name != "correlation-id"
        }


@pytest.mark.parametrize("path", ["sub/a.bin", "sub/none", "sub"])
def test_cache_has_one_entry_for_all_spellings_of_a_path(orm, cached_app, cache, path):
    base = orm.distribution(publication=orm.publication({"sub/a.bin": b"a" * 1000}))
    first = get(cached_app, f"/pulp/content/{base}/{path}")
    entries, size = set(cache._entries), cache.size
    for spelling in (
        "{0}//{1}",
        "{0}///{1}",
        "{0}/./{1}",
        "/{0}/{1}",
        "x/../{0}/{1}",
        "{0}%2F%2F{1}",
    ):
        target = "/pulp/content/" + spelling.format(base, path)
        for _ in range(2):
            again = get_raw(cached_app, target)
            assert (again.status_code, again.headers) == (first.status_code, first.headers)
            assert again.content == first.content
    assert (set(cache._entries), cache.size) == (entries, size)


def test_cache_holds_the_bytes_of_a_file_once_for_all_paths_and_accepts(orm, cached_app, cache):
    data = b"a" * 1000
    base = orm.distribution(publication=orm.publication({"a.bin": data, "b.bin": data}))
    for path in ("a.bin", "b.bin"):
        for accept in ("*/*", "application/json"):
            url = f"/pulp/content/{base}/{path}"
            assert get(cached_app, url, {"Accept": accept}).content == data
    assert cache.size == len(data)


def test_cache_entries_of_404s_evict_no_files(orm, cached_app, cache):
    base = orm.distribution(publication=orm.publication({"a.bin": b"a"}))
    get(cached_app, f"/pulp/content/{base}/a.bin")
    for number in range(cache.capacity + 1):
        assert get(cached_app, f"/pulp/content/{base}/none-{number}").status_code == 404
    assert cache.get(CacheKey(f"{base}/a.bin", "GET", json=False)) is not None


@pytest.mark.parametrize("path", ["a" + "/" * 2700, "ab/" * 900, ("x" * 2000 + "/") * 4])
def test_path_with_many_segments_makes_no_large_statement(orm, cache, path):
    for sql in (queries := queries_of(cache, path)):
        assert len(sql) < 100_000
    assert queries


def test_cache_has_no_entry_for_a_listing(orm, cached_app, cache):
    base = orm.distribution(publication=orm.publication({"a.bin": b"a"}))
    assert get(cached_app, f"/pulp/content/{base}/").status_code == 200
    assert cache.get(CacheKey(f"{base}/", "GET", json=False)) is None


def test_cache_hit_of_redirect_has_the_query_of_the_request(orm, cached_app):
    base = orm.distribution(publication=orm.publication({"sub/a.bin": b"a"}))
    for query in ("one=1", "two=2"):
        response = get(cached_app, f"/pulp/content/{base}/sub?{query}")
        assert response.headers["Location"] == f"/pulp/content/{base}/sub/?{query}"


def test_cache_hit_of_index_page_is_not_sent_to_clients_that_prefer_json(orm, cached_app):
    base = orm.distribution(publication=orm.publication({"index.html": b"<p>"}))
    url = f"/pulp/content/{base}/"
    assert get(cached_app, url).content == b"<p>"
    as_json = get(cached_app, url, {"Accept": "application/json"})
    assert as_json.headers["Content-Type"] == "application/json"
    assert get(cached_app, url).content == b"<p>"


def test_cache_hit_asks_the_guard_each_time(orm, cached_app, cache):
    guard = orm.guard(HeaderContentGuard, header_name="x-pass", header_value="yes")
    base = orm.distribution(publication=orm.publication({"a.bin": b"a"}), content_guard=guard)
    url = f"/pulp/content/{base}/a.bin"
    right, wrong = {"x-pass": "eWVz"}, {"x-pass": "bm8="}
    for _ in range(2):
        assert get(cached_app, url, right).status_code == 200
        assert get(cached_app, url, wrong).status_code == 403
        assert get(cached_app, url).status_code == 403
    assert cache.get(CacheKey(f"{base}/a.bin", "GET", json=False)) is not None
    guard.header_value = "no"
    guard.save()
    assert get(cached_app, url, right).status_code == 403
    assert get(cached_app, url, wrong).status_code == 200


def test_cache_is_invalidated_by_signals_of_the_own_process(orm, cached_app):
    """Without a listener."""
    old, new = orm.publication({"a": b"old"}), orm.publication({"a": b"new"})
    base = orm.distribution(publication=old)
    url = f"/pulp/content/{base}/a"
    assert get(cached_app, url).content == b"old"
    distribution = Distribution.objects.get(base_path=base)
    distribution.publication = new
    distribution.save()
    assert get(cached_app, url).content == b"new"
    distribution.base_path = moved = orm.unique()
    distribution.save()
    assert get(cached_app, url).status_code == 404
    assert get(cached_app, f"/pulp/content/{moved}/a").content == b"new"
    distribution.delete()
    assert get(cached_app, f"/pulp/content/{moved}/a").status_code == 404


def test_cache_is_invalidated_before_the_api_responds(instance, pulp, content):
    """The API of the same process makes the change; writes of tests would wait for the listener."""
    repository = pulp.repository({"a": b"a"})
    base = pulp.distribute(publication=pulp.publish(repository))
    guard = pulp.create("contentguards/core/header/", name=base, header_name="x", header_value="y")
    href = pulp.get(f"{pulp.root}distributions/file/file/?base_path={base}")["results"][0]
    with instance.client() as client:  # `pulp` waits for invalidation
        for name, expected in ((guard["pulp_href"], 403), (None, 200)) * 3:
            answer = client.patch(href["pulp_href"], json={"content_guard": name})
            assert answer.status_code in (200, 202), answer.text
            if answer.status_code == 202:
                pulp.task(answer)
            assert content.get(f"{base}/a").status_code == expected


def test_cache_hit_calls_content_handler_of_the_plugin_each_time(
    orm, cached_app, cache, monkeypatch
):
    base = orm.distribution(publication=orm.publication({"a": b"a", "b": b"b"}))
    other = ContentArtifact.objects.get(
        published_artifact__publication__distribution__base_path=base, relative_path="b"
    )
    answers, requested = [None], []

    def content_handler(self, path):
        requested.append(path)
        return answers[-1]

    monkeypatch.setattr(FileDistribution, "content_handler", content_handler)
    url = f"/pulp/content/{base}/a"
    for answer, expected in ((None, b"a"), (None, b"a"), (other, b"b"), (None, b"a")):
        answers.append(answer)
        assert get(cached_app, url).content == expected
    assert requested == ["a"] * 4
    entry = cache.get(CacheKey(f"{base}/a", "GET", json=False))
    assert entry is not None and entry.asks_plugin


def test_cache_has_entries_only_for_plugin_apps_that_are_cacheable(
    orm, cached_app, cache, monkeypatch
):
    class Default(PublicationApp):
        pass

    class Cacheable(PublicationApp):
        cacheable = True

    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    for app, entry in ((Default, False), (Cacheable, True)):
        monkeypatch.setattr("pulpcore.content_star.views.app_for", lambda _, app=app: app)
        assert get(cached_app, f"/pulp/content/{base}/a").content == b"a"
        assert (cache.get(CacheKey(f"{base}/a", "GET", json=False)) is not None) == entry


def test_cache_holds_the_bytes_of_small_files_only(orm, cached_app):
    files = {"small": b"s" * 100, "large": b"l" * (MAX_CACHED_SIZE + 1)}
    publication = orm.publication(files)
    base = orm.distribution(publication=publication)
    for name, status in (("small", 200), ("large", 404)):
        url = f"/pulp/content/{base}/{name}"
        assert get(cached_app, url).content == files[name]
        published = publication.published_artifact.get(relative_path=name)
        stored = Path(published.content_artifact.artifact.file.path)
        stored.unlink()
        assert get(cached_app, url).status_code == status
        stored.write_bytes(files[name])
        assert get(cached_app, url, {"Range": "bytes=0-9"}).content == files[name][:10]


def test_cache_hit_is_never_older_than_the_last_commit(orm, content):
    """Writes in this process, reads from the server's."""
    publications = [orm.publication({"a": b"%d" % number}) for number in range(30)]
    base = orm.distribution(publication=publications[0])
    committed, done = [0], threading.Event()
    wrong: list[str] = []
    requested: list[int] = []

    def read() -> None:
        with httpx.Client(base_url=content.base_url) as client:
            while not done.is_set():
                at_least = committed[0]
                answer = client.get(f"{base}/a")
                requested.append(at_least)
                if answer.status_code != 200 or int(answer.content) < at_least:
                    wrong.append(f"{answer.status_code} {answer.text} < {at_least}")

    with ThreadPoolExecutor(3) as readers:
        jobs = [readers.submit(read) for _ in range(3)]
        try:
            for number, publication in enumerate(publications):
                # Returns after invalidation in the server (`tests/support/invalidation.py`).
                Distribution.objects.filter(base_path=base).update(publication=publication)
                committed[0] = number
                enough = len(requested) + 5
                wait_until(lambda enough=enough: len(requested) >= enough or wrong)
        finally:
            done.set()
        for job in jobs:
            job.result(300)
    assert wrong == []


def test_notification_of_a_change_in_one_transaction_with_a_sync_invalidates(orm, content):
    old, new = orm.publication({"a": b"old"}), orm.publication({"a": b"new"})
    base = orm.distribution(publication=old)
    distribution = Distribution.objects.filter(base_path=base)
    for publication, expected in ((new, b"new"), (old, b"old")):
        content.get(f"{base}/a")
        # PostgreSQL delivers the notifications of a transaction in order.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, f"{SYNC_PREFIX}question"])
            distribution.update(publication=publication)
        assert content.get(f"{base}/a").content == expected


def test_sync_notifications_without_pause_do_not_delay_the_listener(instance):
    done = threading.Event()

    def notify() -> None:
        with connection.cursor() as cursor:
            while not done.is_set():
                cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, f"{SYNC_PREFIX}question"])
        connection.close()

    with ThreadPoolExecutor(1) as notifier:
        job = notifier.submit(notify)
        try:
            with serving(instance) as server:
                wait_until(lambda: CACHE_ENABLED in server.said() or NO_LISTEN in server.said())
                assert NO_LISTEN not in server.said()
        finally:
            done.set()
        job.result(300)


def notified(work) -> list[str]:
    """Run `work` and return the payloads of its notifications."""
    parameters = connection.get_connection_params()
    names = ("host", "port", "dbname", "user", "password")
    known = {name: parameters[name] for name in names if name in parameters}
    with psycopg.connect(**known, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        work()
        settle_token = "end"
        listener.execute("SELECT pg_notify(%s, %s)", [CHANNEL, f"sync {settle_token}"])
        payloads = []
        for notification in listener.notifies():
            if notification.payload == f"sync {settle_token}":
                return [each for each in payloads if not each.startswith("sync ")]
            payloads.append(notification.payload)
    raise AssertionError


def test_trigger_sends_one_notification_for_a_statement(orm):
    units = orm.content({f"{number}": b"same" for number in range(150)})
    files = ContentArtifact.objects.filter(content__in=units)
    some = list(files.values_list("pk", flat=True)[:3])
    payloads = notified(lambda: files.filter(pk__in=some).update(artifact=None))
    assert [set(payload.split()) for payload in payloads] == [{str(pk) for pk in some}]
    assert notified(lambda: files.update(artifact=None)) == ["all"]


def test_trigger_sends_no_notification_for_saving_an_on_demand_file(orm):
    units = orm.content({"a": b"saved later"})
    file = ContentArtifact.objects.get(content__in=units)
    artifact = file.artifact
    assert notified(lambda: ContentArtifact.objects.filter(pk=file.pk).update(artifact=None))
    assert not notified(
        lambda: ContentArtifact.objects.filter(pk=file.pk).update(artifact=artifact)
    )


def test_trigger_sends_notification_for_tables_of_plugins(orm):
    guard = orm.guard(HeaderContentGuard, header_name="x", header_value="y")
    assert notified(
        lambda: HeaderContentGuard.objects.filter(pk=guard.pk).update(header_name="z")
    ) == [str(guard.pk)]


def test_trigger_sends_no_notification_before_a_publication_is_complete(orm):
    version = orm.version({})
    publication = Publication(repository_version=version, pulp_type="file.file")
    publication.save()
    files = ContentArtifact.objects.filter(content__in=orm.content({"a": b"a", "b": b"b"}))
    rows = [
        publication.published_artifact.model(
            publication=publication, content_artifact=file, relative_path=file.relative_path
        )
        for file in files
    ]
    assert notified(lambda: publication.published_artifact.bulk_create(rows)) == []
    publication.delete()


def test_listener_reconnects_after_its_connection_is_lost(instance, orm):
    old, new = orm.publication({"a": b"old"}), orm.publication({"a": b"new"})
    base = orm.distribution(publication=old)
    with serving(instance) as server:
        url = f"{server.content_url}{base}/a"
        wait_until(lambda: CACHE_ENABLED in server.said(), explain=server.said)
        assert httpx.get(url).content == httpx.get(url).content == b"old"
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity"
                " WHERE application_name = %s",
                [APPLICATION_NAME],
            )
        Distribution.objects.filter(base_path=base).update(publication=new)
        wait_until(lambda: httpx.get(url).content == b"new")
        assert NO_CONNECTION in server.said()
        wait_until(lambda: server.said().count(CACHE_ENABLED) == 2, explain=server.said)
        Distribution.objects.filter(base_path=base).update(publication=old)
        assert httpx.get(url).content == b"old"
    wait_until_cache_enabled(instance)


def test_cache_is_disabled_while_triggers_are_missing(instance, orm):
    """The migration is reversed and applied again while servers run on a database with data."""
    old, new = orm.publication({"a": b"old"}), orm.publication({"a": b"new"})
    base = orm.distribution(publication=old)
    with serving(instance) as server:
        url = f"{server.content_url}{base}/a"
        wait_until(lambda: CACHE_ENABLED in server.said(), explain=server.said)
        try:
            instance.run(["pulpcore-manager", "migrate", "content_star", "zero"])
            wait_until(lambda: NO_TRIGGERS in server.said(), explain=server.said)
            ready = httpx.get(f"{server.content_url}readyz")
            assert ready.status_code == 200 and NO_TRIGGERS in ready.text
            assert httpx.get(url).content == b"old"
            Distribution.objects.filter(base_path=base).update(publication=new)
            assert httpx.get(url).content == b"new"
        finally:
            instance.run(["pulpcore-manager", "migrate"])
        wait_until(lambda: server.said().count(CACHE_ENABLED) == 2, explain=server.said)
        assert httpx.get(f"{server.content_url}readyz").text == "ok\n"
        assert httpx.get(url).content == b"new"
        Distribution.objects.filter(base_path=base).update(publication=old)
        assert httpx.get(url).content == b"old"
    wait_until_cache_enabled(instance)


def wait_until_cache_enabled(instance: Instance) -> None:
    """Wait until the instance's own process, which other tests use, has its cache enabled again."""
    as_json = {"Accept": "application/json"}
    url = f"{instance.content_url}readyz"

    def cache_state() -> str:
        return httpx.get(url, headers=as_json).json()["cache"]

    wait_until(lambda: cache_state() == "enabled", explain=cache_state)


@pytest.mark.parametrize(("mode", "said"), [("transaction", NO_LISTEN), ("session", CACHE_ENABLED)])
def test_cache_is_disabled_behind_a_transaction_pooler_alone(instance, orm, tmp_path, mode, said):
    old, new = orm.publication({"a": b"old"}), orm.publication({"a": b"new"})
    base = orm.distribution(publication=old)
    with (
        pgbouncer(instance, tmp_path, mode) as pooler,
        serving(instance, **pooler.environ) as server,
    ):
        url = f"{server.content_url}{base}/a"
        wait_until(lambda: said in server.said(), explain=server.said)
        assert httpx.get(url).content == httpx.get(url).content == b"old"
        Distribution.objects.filter(base_path=base).update(publication=new)
        assert httpx.get(url).content == b"new"
        other = CACHE_ENABLED if said == NO_LISTEN else NO_LISTEN
        assert other not in server.said()
