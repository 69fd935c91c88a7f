"""HTML listings of large directories: streaming, memory, compression and the row cache."""

import asyncio
import gzip
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from django.db import connection
from starlette.types import Message, Receive, Scope, Send

from pulpcore.app.models import ContentArtifact
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings import stream as listing_page
from pulpcore.content_star.listings.entries import UNSIZED_SECONDS
from pulpcore.content_star.listings.html import html_listing
from pulpcore.content_star.listings.pagination import ALL_ENTRIES
from pulpcore.content_star.listings.stream import ListedDirectory, RowCache, Rows
from pulpcore.content_star.resolve.content import ContentSource
from tests.support.asgi import get
from tests.support.bulk import Bulk
from tests.support.instance import wait_until
from tests.support.listing_parser import parse_listing
from tests.support.server import serving

pytestmark = pytest.mark.slow

COUNT = directory.ROWS * 4 + 7
TEXT = {"Accept": "*/*"}
GZIP = {"Accept-Encoding": "gzip"}
PLAIN = TEXT | {"Accept-Encoding": "identity"}


@pytest.fixture(scope="module")
def bulk(module_orm) -> Iterator[Bulk]:
    """Files in `p/`, and some more in a hundred directories below it."""
    bulk = Bulk(module_orm, COUNT, "p/%s-é<&{unique}")
    ContentArtifact.objects.bulk_create(
        ContentArtifact(content_id=each.content_id, relative_path=f"p/{n % 100}/{n}")
        for n, each in enumerate(
            ContentArtifact.objects.filter(content__in=bulk.version.content)[:300]
        )
    )
    yield bulk
    bulk.remove()


@pytest.fixture(scope="module")
def source(bulk) -> ContentSource:
    return ContentSource(None, bulk.version)


@pytest.fixture(scope="module")
def base(module_orm, bulk) -> str:
    return module_orm.distribution(from_publication=False, repository_version=bulk.version)


@pytest.fixture(scope="module")
def whole(source, base) -> str:
    """The HTML listing, rendered from the result of one query."""
    entries = directory.entries(source, "p/", ALL_ENTRIES)
    assert len(entries) == COUNT + 100
    return html_listing(f"/pulp/content/{base}/p/", entries)


@pytest.fixture
def fresh(orm, bulk) -> Iterator[str]:
    """The base path of a publication of the same files, without cached rows."""
    publication = bulk.publish()
    orm._created.append(publication)
    yield orm.distribution(publication=publication)


@pytest.fixture
def empty_row_cache(monkeypatch) -> RowCache:
    cache = RowCache(listing_page.MAX_CACHE_BYTES)
    monkeypatch.setattr(listing_page, "row_cache", cache)
    return cache


def test_large_listing_is_streamed_and_the_same_from_the_cache(content, base, whole):
    first, second = (content.get(f"{base}/p/", headers=TEXT) for _ in range(2))
    assert first.text == whole
    assert "Content-Length" not in first.headers, "streamed"
    assert second.text == whole
    assert int(second.headers["Content-Length"]) == second.num_bytes_downloaded
    for name in ("Content-Type", "Vary", "X-Content-Type-Options", "Content-Security-Policy"):
        assert first.headers[name] == second.headers[name]
    assert first.headers["Surrogate-Key"] == second.headers["Surrogate-Key"]
    assert first.headers["Content-Type"] == "text/html; charset=utf-8"


def test_large_listing_is_the_same_for_concurrent_clients(content, fresh, whole):
    pages: list[str] = []

    def fetch() -> None:
        pages.append(content.get(f"{fresh}/p/", headers=TEXT).text)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pages) == 8
    assert [parse_listing(page) for page in pages] == [parse_listing(whole)] * 8


def test_listing_of_one_part_is_sent_in_one_step_of_the_event_loop(app, orm):
    """So that a server that is killed cuts the response to one client at most."""
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    steps: list[str] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            await send(message)
            is_start = message["type"] == "http.response.start"
            steps.append("start" if is_start else f"more: {message.get('more_body', False)}")
            if is_start:
                asyncio.get_running_loop().call_soon(steps.append, "another client")

        await app(scope, receive, watch)

    answer = get(watched, f"/pulp/content/{base}/", TEXT)
    assert list(parse_listing(answer.text)) == ["a.txt"]
    assert steps[: steps.index("another client")] == ["start", "more: True", "more: False"]


def test_head_of_large_listing_has_no_content_length(content, base):
    answer = content.head(f"{base}/p/", headers=TEXT)
    assert answer.status_code == 200
    assert "Content-Length" not in answer.headers


@contextmanager
def stalled(url: str, path: str, *headers: str) -> Iterator[socket.socket]:
    """Start a client with a small receive buffer that reads only the status line."""
    address = httpx.URL(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.host, address.port))
        lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]
        client.sendall("\r\n".join(lines).encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        yield client


def _busy() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT state FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND state <> 'idle' AND query LIKE '%%entry AS%%'"
        )
        return [state for (state,) in cursor]


def test_slow_client_of_large_listing_holds_no_database_connection(instance, fresh):
    with stalled(instance.url, f"/pulp/content/{fresh}/p/"):
        wait_until(lambda: not _busy())


def test_large_listing_reads_rows_on_demand_and_shares_them(source, empty_row_cache, monkeypatch):
    """Rows that another client has read are not queried twice."""
    read: list[str | None] = []
    part = directory.read_part

    def counted(source, path, after, *rest):
        read.append(after)
        return part(source, path, after, *rest)

    monkeypatch.setattr(directory, "read_part", counted)
    level = ListedDirectory(source, "p/", ())
    rows = level.read()
    assert len(read) == 1
    second = level.block(rows, 1, rows.blocks[0])
    again = ListedDirectory(source, "p/", ()).read()
    assert again.blocks == [rows.blocks[0], second]
    assert len(read) == 2


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_stalled_clients_of_large_listings_do_not_block_others(instance, base, crowded, encoding):
    header = f"Accept-Encoding: {encoding}"
    with (
        serving(instance, app="pulpcore.routing:content_application") as server,
        ExitStack() as idle,
    ):
        for number in range(30):
            idle.enter_context(
                stalled(server.url, f"/pulp/content/{crowded}/many/?{number}", header)
            )
        wait_until(lambda: not _busy())
        answer = httpx.get(f"{server.content_url}{base}/p/", headers=TEXT)
        assert len(parse_listing(answer.text)) == COUNT + 100
        wait_until(lambda: not _busy())


def test_large_listing_that_fails_midway_aborts_the_response(
    instance, base, monkeypatch, empty_row_cache
):
    from pulpcore.content_star.application import create_application

    part = directory.read_part

    def failing(source, path, after):
        if after is not None:
            raise RuntimeError("broken")
        return part(source, path, after)

    monkeypatch.setattr(directory, "read_part", failing)
    with pytest.raises(RuntimeError, match="broken"):
        get(create_application("content"), f"/pulp/content/{base}/p/", TEXT)


def test_plugin_entries_are_merged_into_a_large_listing(fresh, monkeypatch, empty_row_cache):
    from pulp_file.app.models import FileDistribution

    from pulpcore.content_star.application import create_application

    monkeypatch.setattr(
        FileDistribution, "content_handler_list_directory", lambda self, path: {"zzz/", "000"}
    )
    page = get(create_application("content"), f"/pulp/content/{fresh}/p/", TEXT)
    names = list(parse_listing(page.text))
    assert len(names) == COUNT + 102
    assert names == sorted(names)
    assert {"zzz/", "000"} <= set(names)


_MANY = 200_000

_PUBLISH_MANY = """
    INSERT INTO core_publishedartifact (pulp_id, pulp_created, relative_path, content_artifact_id,
                                        publication_id)
    SELECT gen_random_uuid(), now(), format('many/%%s-%%s.rpm', md5(n::text), n), file,
           %(publication)s
    FROM generate_series(1, %(count)s) AS n,
         (SELECT pulp_id FROM core_contentartifact LIMIT 1) AS any_file (file)
"""


@pytest.fixture
def crowded(orm) -> Iterator[str]:
    """The base path of a publication with 200,000 files in a directory."""
    publication = orm.publication({"a": b"a"})
    with connection.cursor() as cursor:
        cursor.execute(_PUBLISH_MANY, {"publication": publication.pk, "count": _MANY})
        yield orm.distribution(publication=publication)
        cursor.execute(
            "DELETE FROM core_publishedartifact WHERE publication_id = %s", [publication.pk]
        )


def _peak_memory(pid: int) -> int:
    """Return the peak memory of a process in bytes, and reset it."""
    line = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert line
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(line[1]) * 1024


def test_large_listing_keeps_memory_bounded(instance, base, crowded):
    with serving(instance, app="pulpcore.routing:content_application") as server:
        pid = server.process.pid

        def read(path: str, **headers: str) -> int:
            """GET the page in chunks, and return its length."""
            url = f"{server.content_url}{path}"
            with httpx.stream("GET", url, headers=PLAIN | headers) as response:
                assert response.status_code == 200
                return sum(map(len, response.iter_raw()))

        read(f"{base}/p/")
        _peak_memory(pid)
        read(f"{base}/p/")
        before = _peak_memory(pid)
        size = read(f"{crowded}/many/")
        first = _peak_memory(pid) - before
        assert read(f"{crowded}/many/") == size
        second = _peak_memory(pid) - before
    assert size > _MANY * 150
    # The limit of cached rows, compressed, and as much again while they are (de)compressed.
    assert first < 2 * listing_page.MAX_DIRECTORY_BYTES
    assert second < 2 * listing_page.MAX_DIRECTORY_BYTES


def rows_of(*sizes: int) -> list[Rows]:
    made = []
    for size in sizes:
        rows = Rows()
        rows.deflated = size - rows.cost
        made.append(rows)
    return made


def test_row_cache_evicts_the_least_recently_used_entry():
    cache = RowCache(100)
    for key, rows in zip("abc", rows_of(40, 40, 40), strict=True):
        cache.put(key, rows)
        assert cache.get("a")
    assert cache.get("b") is None
    assert cache.get("c")


def test_row_cache_counts_the_new_size_of_an_entry_that_grew():
    cache = RowCache(100)
    first, second = rows_of(40, 40)
    cache.put("a", first)
    cache.put("b", second)
    second.deflated += 40
    cache.put("b", second)
    assert cache.get("a") is None
    assert cache.get("b") is second


def test_row_cache_has_no_incomplete_versions(module_orm, empty_row_cache):
    version = module_orm.version({"d/a": b"1"})
    level = ListedDirectory(ContentSource(None, version), "d/", ())
    assert level.read() is level.read()
    version.complete = False
    level = ListedDirectory(ContentSource(None, version), "", ())
    assert level.read() is not level.read()


def test_row_cache_entry_with_unknown_sizes_expires(module_orm, empty_row_cache, monkeypatch):
    """Saving a file, which makes its size known, sends no notification."""
    version = module_orm.version({"d/a": b"12345", "d/b": b"1"})
    file = ContentArtifact.objects.get(content__in=version.content, relative_path="d/a")
    artifact, file.artifact = file.artifact, None
    file.save()
    level = ListedDirectory(ContentSource(None, version), "d/", ())
    rows = level.read()
    assert level.read() is rows
    file.artifact = artifact
    file.save()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + UNSIZED_SECONDS + 1)
    assert level.read() is not rows
    assert level.read().size > rows.size


def test_large_listing_is_compressed_for_accept_encoding_gzip(content, fresh, whole):
    for _ in range(2):  # streamed, and from the cache
        with content.stream("GET", f"{fresh}/p/", headers=TEXT | GZIP) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Vary"] == "Accept-Encoding, Accept"
        assert parse_listing(gzip.decompress(raw).decode()) == parse_listing(whole)
        assert len(raw) < len(whole) / 4
    assert int(answer.headers["Content-Length"]) == len(raw)
    etag = answer.headers["ETag"]
    assert etag.startswith('W/"')
    for encoding in (GZIP, {"Accept-Encoding": "identity"}):
        known = content.get(f"{fresh}/p/", headers=TEXT | encoding | {"If-None-Match": etag})
        assert (known.status_code, known.content) == (304, b"")
        assert (known.headers["ETag"], known.headers["Vary"]) == (etag, answer.headers["Vary"])
        assert "Content-Encoding" not in known.headers
        headed = content.head(f"{fresh}/p/", headers=TEXT | encoding)
        assert headed.headers["Vary"] == answer.headers["Vary"]
        assert headed.headers.get("Content-Encoding") == ("gzip" if encoding == GZIP else None)
