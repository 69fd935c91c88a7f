"""Parity of artifacts in S3: redirects to the store, and responses streamed from it."""

import hashlib
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.parity.test_parity import Row, check_differences, differing_facets, send_row
from tests.support.orm import Site
from tests.support.server import Server, serving_theirs
from tests.support.stores import Store

DATA = b"0123456789"
FILES = {"a.txt": DATA, "dir/b c.tar.gz": b"bb", "empty": b""}
SHA256 = hashlib.sha256(DATA).hexdigest()

SAFE = "security headers"
REDIRECT = f"redirect body; {SAFE}"

REDIRECTS = [
    Row("a.txt", REDIRECT),
    Row("a.txt", REDIRECT, method="HEAD"),
    Row("dir/b c.tar.gz", REDIRECT),
    Row("a.txt", "304 instead of a redirect", {"If-None-Match": '"{sha256}"'}),
    Row("a.txt", REDIRECT, {"If-None-Match": '"other"'}),
    Row("a.txt", "If-Match in object storage", {"If-Match": '"other"'}),
    Row("a.txt", REDIRECT, {"Range": "bytes=0-1"}),
]
STREAMED = [
    Row("a.txt", SAFE),
    Row("a.txt", SAFE, method="HEAD"),
    Row("dir/b c.tar.gz", SAFE),
    Row("empty", SAFE),
    Row("a.txt", "", {"If-None-Match": '"{sha256}"'}),
    Row("a.txt", "If-Match in object storage", {"If-Match": '"other"'}),
    Row("a.txt", SAFE, {"Range": "bytes=2-4"}),
    Row("a.txt", SAFE, {"Range": "bytes=-3"}),
    Row("a.txt", "416", {"Range": "bytes=10-"}),
    Row("a.txt", "several ranges", {"Range": "bytes=0-1,4-5"}),
    Row("a.txt", "If-Range", {"Range": "bytes=0-1", "If-Range": '"other"'}),
    Row("a.txt", "HEAD and Range", {"Range": "bytes=0-1"}, method="HEAD"),
]
ROWS = REDIRECTS + STREAMED

pytestmark = pytest.mark.parametrize("store", ["s3"], indirect=True)


@pytest.fixture(scope="module")
def upstream_domains(instance, with_domains: dict[str, str]) -> Iterator[str]:
    """The content root of upstream's content app with domains."""
    with serving_theirs(instance, **with_domains) as server:
        yield server.content_url


@pytest.fixture(scope="module")
def site(instance, store: Store) -> Iterator[Site]:
    site = Site(store.storage_class, store.settings, FILES)
    yield site
    site.remove()


@pytest.mark.parametrize("row", REDIRECTS, ids=str)
def test_redirect_to_object_store_parity(
    domains: Server, upstream_domains: str, site: Site, row: Row
):
    site.set(redirect_to_object_storage=True)
    theirs, ours = both(domains, upstream_domains, site, row)
    check(row, theirs, ours)
    if theirs.status_code == ours.status_code == 302:
        assert signed(ours) == signed(theirs) | {
            "response-content-disposition": signed(ours)["response-content-disposition"]
        }


@pytest.mark.parametrize("row", STREAMED, ids=str)
def test_object_store_stream_parity(domains: Server, upstream_domains: str, site: Site, row: Row):
    site.set(redirect_to_object_storage=False)
    check(row, *both(domains, upstream_domains, site, row))


def both(
    domains: Server, upstream: str, site: Site, row: Row
) -> tuple[httpx.Response, httpx.Response]:
    below = f"{site.domain.name}/{site.base_path}/"
    theirs = send_row(upstream + below, row, {"sha256": SHA256})
    return theirs, send_row(domains.content_url + below, row, {"sha256": SHA256})


def check(row: Row, theirs: httpx.Response, ours: httpx.Response) -> None:
    found = differing_facets(theirs, ours)
    # The signature depends on the time; `signed` compares the other parts.
    found -= {"location"} if "location" in theirs.headers and "location" in ours.headers else set()
    check_differences(row, found, theirs, ours)


def signed(redirect: httpx.Response) -> dict[str, list[str]]:
    """Return the parts of a signed URL, except the time and the signature."""
    url = urlsplit(redirect.headers["location"])
    query = {
        name: values
        for name, values in parse_qs(url.query).items()
        if name not in ("X-Amz-Date", "X-Amz-Signature")
    }
    return {"path": [url.netloc, url.path], **query}
