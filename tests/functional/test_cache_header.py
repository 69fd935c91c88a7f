"""The header `X-PULP-CACHE`, which upstream sends if its cache is enabled."""

import base64
from collections.abc import Iterator

import httpx
import pytest

from tests.functional.test_on_demand_lifecycle import Folder
from tests.support.pulp import unique
from tests.support.server import Server, serving

KEY = {"X-Key": base64.b64encode(b"open").decode()}
CHANGED = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
FILES = {"a.txt": b"0123456789", "big": bytes(1_000_000), "dir/b": b"b", "page/index.html": b"p"}


@pytest.fixture(scope="module")
def caching(instance) -> Iterator[Server]:
    """A server with CACHE_ENABLED. Its Redis does not exist, and is not needed."""
    on = {"PULP_CACHE_ENABLED": "true", "PULP_REDIS_URL": "redis://127.0.0.1:1"}
    with serving(instance, **on) as server:
        yield server


@pytest.fixture(scope="module")
def cached(caching: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=caching.content_url) as client:
        yield client


def cache_headers(
    client: httpx.Client, path: str, times: int = 3, method: str = "GET", **headers: str
):
    """Repeat a request; return the common status, and the header of each response."""
    answers = [client.request(method, path, headers=headers) for _ in range(times)]
    assert len({answer.status_code for answer in answers}) == 1
    return answers[0].status_code, [answer.headers.get("X-PULP-CACHE") for answer in answers]


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/a.txt", 200, ["MISS", "HIT", "HIT"]),
        ("/big", 200, ["MISS", "HIT", "HIT"]),
        ("/page/", 200, ["MISS", "HIT", "HIT"]),
        ("/", 200, ["MISS", "HIT", "HIT"]),
        ("/dir/", 200, ["MISS", "HIT", "HIT"]),
        ("/nope", 404, ["MISS", "HIT", "HIT"]),
        ("/dir", 301, [None, None, None]),
    ],
)
def test_cache_header_of_publication(cached, orm, path, status, expected):
    base = orm.distribution(publication=orm.publication(FILES))
    assert cache_headers(cached, base + path) == (status, expected)


def test_cache_header_of_head_and_conditions_and_ranges(cached, orm):
    base = orm.distribution(publication=orm.publication(FILES))
    assert cache_headers(cached, f"{base}/a.txt", method="HEAD") == (200, ["MISS", "HIT", "HIT"])
    assert cache_headers(cached, f"{base}/a.txt", **CHANGED) == (304, [None, "HIT", "HIT"])
    etag = cached.get(f"{base}/a.txt").headers["ETag"]
    assert cache_headers(cached, f"{base}/a.txt", **{"If-None-Match": etag}) == (304, ["HIT"] * 3)
    assert cache_headers(cached, f"{base}/a.txt", Range="bytes=0-1") == (206, ["HIT"] * 3)
    assert cache_headers(cached, f"{base}/a.txt", Range="bytes=99-") == (416, [None] * 3)
    assert cache_headers(cached, f"{base}/big", Range="bytes=0-1") == (206, ["MISS", "HIT", "HIT"])


def test_cache_header_is_absent_where_a_guard_denies(cached, pulp, orm):
    guard = pulp.create(
        "contentguards/core/header/", name=unique("guard"), header_name="x-key", header_value="open"
    )
    repository = pulp.repository({"a.txt": b"a"})
    pulp.publish(repository)
    base = pulp.distribute(repository=repository, content_guard=guard["pulp_href"])
    assert cache_headers(cached, f"{base}/a.txt") == (403, [None] * 3)
    assert cache_headers(cached, f"{base}/a.txt", **KEY) == (200, ["MISS", "HIT", "HIT"])
    assert cache_headers(cached, f"{base}/a.txt") == (403, [None] * 3)
    assert cache_headers(cached, f"{base}/", **KEY) == (200, ["MISS", "HIT", "HIT"])


def test_cache_header_is_a_miss_after_a_change(cached, pulp):
    repository = pulp.repository({"a.txt": b"a"})
    pulp.publish(repository)
    base = pulp.distribute(repository=repository)
    for _ in range(2):
        assert cache_headers(cached, f"{base}/a.txt", 2) == (200, ["MISS", "HIT"])
        assert cache_headers(cached, f"{base}/", 2) == (200, ["MISS", "HIT"])
        pulp.publish(repository)


@pytest.mark.parametrize("by", ["repository", "repository_version"])
def test_cache_header_of_unpublished_repository(cached, orm, by):
    version = orm.version({"a.txt": b"a"})
    target = version.repository.cast() if by == "repository" else version
    base = orm.distribution(**{by: target})
    for path in ("/a.txt", "/"):
        assert cache_headers(cached, base + path) == (404, ["MISS", "HIT", "HIT"])
    publication = orm.publication({"b.txt": b"b"}, version)
    for path in ("/a.txt", "/"):
        assert cache_headers(cached, base + path) == (200, ["MISS", "HIT", "HIT"])
    publication.delete()
    assert cache_headers(cached, f"{base}/a.txt") == (404, ["MISS", "HIT", "HIT"])


def test_cache_header_is_absent_where_nothing_is_cached(cached, pulp, server, orm):
    top = unique("top")
    orm.distribution(f"{top}/nothing")
    assert cache_headers(cached, f"{top}/nothing/a") == (404, [None] * 3)
    assert cache_headers(cached, f"{top}/") == (200, [None] * 3)
    assert cache_headers(cached, f"{top}/no/such") == (404, [None] * 3)
    assert cache_headers(cached, "") == (200, [None] * 3)
    folder = Folder(pulp, server)
    folder.fill()
    _, base = folder.sync("streamed")
    assert cache_headers(cached, f"{base}/small") == (200, [None] * 3)
    folder = Folder(pulp, server)
    folder.fill()
    _, base = folder.sync("on_demand")
    assert cache_headers(cached, f"{base}/big") == (200, [None, "MISS", "HIT"])


def test_cache_header_is_absent_with_the_cache_disabled(content, orm):
    base = orm.distribution(publication=orm.publication(FILES))
    for path in ("/a.txt", "/", "/nope"):
        assert cache_headers(content, base + path)[1] == [None] * 3
