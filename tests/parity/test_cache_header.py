"""Parity of the header `X-PULP-CACHE`, with the caches of both content apps enabled."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulpcore.content_star.differences import DIFFERENCES
from tests.parity.test_parity import Row, send_row
from tests.support.instance import Instance
from tests.support.orm import Orm
from tests.support.server import free_port, serving, serving_theirs

pytestmark = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="redis-server is not installed"
)

CHANGED = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}

# Each is requested three times, in this order.
ROWS = [
    Row("{fresh}/a.txt"),
    Row("{fresh}/a.txt", "", {"Range": "bytes=0-1"}),
    Row("{fresh}/a.txt", "", CHANGED),
    Row("{fresh}/a.txt", "", {"If-None-Match": "{digest}"}),
    Row("{fresh}/a.txt", "", method="HEAD"),
    Row("{fresh}/dir/b", "", CHANGED),
    Row("{fresh}/"),
    Row("{fresh}/dir/"),
    Row("{fresh}/dir"),
    Row("{fresh}/page/"),
    Row("{fresh}/nope"),
    Row("{fresh}/dir/", "cache header", method="HEAD"),
    Row("{nothing}/a.txt"),
    Row("{top}/nope"),
    Row("{top}/"),
    Row(""),
    Row("{header}/a.txt", "", {"X-Key": "bm8="}),
    Row("{header}/a.txt", "", {"X-Key": "b3Blbg=="}),
    Row("{header}/", "", {"X-Key": "b3Blbg=="}),
    Row("{mirror}/far.txt"),
    Row("{superseded}/old.txt", "cache header"),
]


@pytest.fixture(scope="module")
def caching(instance: Instance, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The content roots of our server and of upstream's, with their own Redis."""
    folder: Path = tmp_path_factory.mktemp("redis")
    port = str(free_port())
    redis = ["redis-server", "--port", port, "--save", "", "--dir", str(folder)]
    on = {"PULP_CACHE_ENABLED": "true", "PULP_REDIS_URL": f"redis://127.0.0.1:{port}"}
    with subprocess.Popen(redis, stdout=subprocess.DEVNULL) as process:
        try:
            with serving(instance, **on) as ours, serving_theirs(instance, **on) as theirs:
                yield ours.content_url, theirs.content_url
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def fresh(values: dict[str, str]) -> Iterator[dict[str, str]]:
    """`values`, and a distribution that no request has been made for."""
    orm = Orm()
    files = {"a.txt": b"0123456789", "dir/b": b"b", "page/index.html": b"<p>page</p>"}
    base = orm.distribution(publication=orm.publication(files))
    yield {**values, "fresh": base, "digest": f'"{values["sha256"]}"'}
    orm.cleanup()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_cache_header_parity(caching, fresh, row):
    ours, theirs = ([cache_header(root, row, fresh) for _ in range(3)] for root in caching)
    if row.differences:
        assert "x-pulp-cache" in DIFFERENCES[row.differences].facets
        assert ours != theirs, "no longer different"
    else:
        assert ours == theirs


def cache_header(root: str, row: Row, values: dict[str, str]) -> tuple[int, str | None]:
    answer = send_row(root, row, values)
    return answer.status_code, answer.headers.get("X-PULP-CACHE")
