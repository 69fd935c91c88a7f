"""HTML listings of directories too large to be read before the first byte."""

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

from pulpcore.app.models import ContentArtifact
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings import stream as listing_page
from pulpcore.content_star.listings.html import html_listing
from pulpcore.content_star.listings.pagination import ALL_ENTRIES
from pulpcore.content_star.listings.stream import ListedDirectory, RowCache, Rows
from pulpcore.content_star.resolve.content import ContentSource
from tests.support.asgi import get
from tests.support.bulk import Bulk
from tests.support.instance import wait_until
from tests.support.listing_parser import parse_listing
from tests.support.server import serving

COUNT = directory.ROWS * 4 + 7
TEXT = {"Accept": "text/html"}
GZIP = {"Accept-Encoding": "gzip"}
PLAIN = TEXT | {"Accept-Encoding": "identity"}


@pytest.fixture(scope="module")
def bulk(module_orm) -> Iterator[Bulk]:
    """Files below `p/`, and some further down in a hundred directories."""
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
    """The page, made of what one query brings."""
    entries = directory.entries(source, "p/", ALL_ENTRIES)
    assert len(entries) == COUNT + 100
    return html_listing(f"/pulp/content/{base}/p/", entries)


@pytest.fixture
def fresh(orm, bulk) -> Iterator[str]:
    """The base path of a publication of the same that nobody has listed yet."""
    publication = bulk.publish()
    orm._created.append(publication)
    yield orm.distribution(publication=publication)


@pytest.fixture
def nothing_kept(monkeypatch) -> RowCache:
    entry = RowCache(listing_page.MAX_CACHE_BYTES)
    monkeypatch.setattr(listing_page, "row_cache", entry)
    return entry


def test_a_large_directory_streams_and_is_the_same_when_it_is_kept(content, base, whole):
    first, second = (content.get(f"{base}/p/", headers=TEXT) for _ in range(2))
    assert first.text == whole
    assert "Content-Length" not in first.headers, "it began before the end was known"
    assert second.text == whole
    assert int(second.headers["Content-Length"]) == second.num_bytes_downloaded
    for name in ("Content-Type", "Vary", "X-Content-Type-Options", "Content-Security-Policy"):
        assert first.headers[name] == second.headers[name]
    assert first.headers["Surrogate-Key"] == second.headers["Surrogate-Key"]
    assert first.headers["Content-Type"] == "text/html; charset=utf-8"


def test_many_clients_at_once_get_the_same(content, fresh, whole):
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


def test_head_lists_nothing(content, base):
    answer = content.head(f"{base}/p/", headers=TEXT)
    assert answer.status_code == 200
    assert "Content-Length" not in answer.headers


@contextmanager
def stalled(url: str, path: str, *headers: str) -> Iterator[socket.socket]:
    """A client whose receive buffer is small, and that reads no more than the status line."""
    address = httpx.URL(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.host, address.port))
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Accept: text/html", *headers, "", ""]
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


def test_no_connection_waits_for_a_slow_reader_of_a_listing(instance, fresh):
    with stalled(instance.url, f"/pulp/content/{fresh}/p/"):
        wait_until(lambda: not _busy())


def test_what_a_client_does_not_take_is_not_read(source, nothing_kept, monkeypatch):
    """Nor is what another client has had read."""
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
    assert again.blocks[:2] == [rows.blocks[0], second]
    assert len(read) == 2


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_many_clients_that_read_nothing_keep_no_other_waiting(instance, base, crowded, encoding):
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
        answer = httpx.get(f"{server.content_url}{base}/p/", headers=TEXT, timeout=60)
        assert len(parse_listing(answer.text)) == COUNT + 100
        wait_until(lambda: not _busy())


def test_a_failure_while_reading_cuts_the_connection(instance, base, monkeypatch, nothing_kept):
    from pulpcore.content_star.application import create_application

    part = directory.read_part

    def failing(source, path, after):
        if after is not None:
            raise RuntimeError("broken")
        return part(source, path, after)

    monkeypatch.setattr(directory, "read_part", failing)
    with pytest.raises(RuntimeError, match="broken"):
        get(create_application("content"), f"/pulp/content/{base}/p/", TEXT)


def test_names_of_a_plugin_join_a_large_directory(fresh, monkeypatch, nothing_kept):
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


def _most_resident(pid: int) -> int:
    """Return how many bytes of memory a process has had at once, since it was asked last."""
    line = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert line
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(line[1]) * 1024


def test_memory_does_not_grow_with_the_listing(instance, base, crowded):
    with serving(instance, app="pulpcore.routing:content_application") as server:
        pid = server.process.pid

        def read(path: str, **headers: str) -> int:
            """Return the bytes of the page, which is not kept here either."""
            url = f"{server.content_url}{path}"
            with httpx.stream("GET", url, headers=PLAIN | headers, timeout=60) as response:
                assert response.status_code == 200
                return sum(map(len, response.iter_raw()))

        read(f"{base}/p/")
        _most_resident(pid)
        read(f"{base}/p/")
        before = _most_resident(pid)
        size = read(f"{crowded}/many/")
        first = _most_resident(pid) - before
        assert read(f"{crowded}/many/") == size
        second = _most_resident(pid) - before
    assert size > _MANY * 150
    # As much as may be kept of it, compressed, and as much again while that is done or undone.
    assert first < 2 * listing_page.MAX_DIRECTORY_BYTES
    assert second < 2 * listing_page.MAX_DIRECTORY_BYTES


def rows_of(*sizes: int) -> list[Rows]:
    made = []
    for size in sizes:
        rows = Rows()
        rows.deflated = size - rows.cost
        made.append(rows)
    return made


def test_what_is_used_least_goes_first():
    entry = RowCache(100)
    for key, rows in zip("abc", rows_of(40, 40, 40), strict=True):
        entry.put(key, rows)
        assert entry.get("a")
    assert entry.get("b") is None
    assert entry.get("c")


def test_rows_that_grew_are_counted_anew():
    entry = RowCache(100)
    first, second = rows_of(40, 40)
    entry.put("a", first)
    entry.put("b", second)
    second.deflated += 40
    entry.put("b", second)
    assert entry.get("a") is None
    assert entry.get("b") is second


def test_what_would_change_is_not_kept(module_orm, nothing_kept):
    version = module_orm.version({"d/a": b"1"})
    level = ListedDirectory(ContentSource(None, version), "d/", ())
    assert level.read() is level.read()
    version.complete = False
    level = ListedDirectory(ContentSource(None, version), "", ())
    assert level.read() is not level.read()


def test_a_listing_with_a_file_of_unknown_size_is_kept_for_a_while(
    module_orm, nothing_kept, monkeypatch
):
    """Its size is shown once it is known: nothing says when a file is saved."""
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
    monkeypatch.setattr(time, "monotonic", lambda: now + directory.UNSIZED_SECONDS + 1)
    assert level.read() is not rows
    assert level.read().size > rows.size


def test_a_client_that_accepts_gzip_gets_the_same_page_in_fewer_bytes(content, fresh, whole):
    for _ in range(2):  # as it is read, and as it is kept
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
