"""Compression, digests and CORS of open content, and the redirect of the root."""

import hashlib
from base64 import b64encode

import httpx
import pytest

from tests.support.server import serving

JSON = {"Accept": "application/json"}
ORIGIN = {"Origin": "https://elsewhere.example"}


@pytest.fixture(scope="module")
def base(module_orm) -> str:
    return module_orm.distribution(publication=module_orm.publication({"a.txt": b"abc"}))


@pytest.fixture(scope="module")
def guarded(module_orm) -> str:
    from pulpcore.app.models import HeaderContentGuard

    guard = module_orm.guard(HeaderContentGuard, header_name="x-key", header_value="open")
    publication = module_orm.publication({"a.txt": b"abc"})
    return module_orm.distribution(publication=publication, content_guard=guard)


@pytest.fixture(scope="module")
def browsable(instance):
    """A server with CORS and the redirect of the root, which are off by default."""
    settings = {"PULP_CONTENT_STAR_CORS": "true", "PULP_CONTENT_STAR_REDIRECT_ROOT": "true"}
    with serving(instance, **settings) as server:
        yield server


@pytest.mark.parametrize("path", ["", "{base}/"])
@pytest.mark.parametrize("accept", [{}, JSON])
def test_compression_of_small_listings_has_a_weak_etag(content, base, path, accept):
    path = path.format(base=base)
    plain, packed = (
        content.get(path, headers={"Accept-Encoding": encoding, **accept})
        for encoding in ("identity", "gzip")
    )
    assert plain.content == packed.content
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.num_bytes_downloaded == int(packed.headers["Content-Length"])
    assert plain.headers["ETag"] == packed.headers["ETag"]
    assert plain.headers["ETag"].startswith('W/"')
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding, Accept"
    known = content.get(path, headers={"If-None-Match": plain.headers["ETag"], **accept})
    assert known.status_code == 304
    assert known.headers["Vary"] == packed.headers["Vary"]


def test_compression_is_off_for_json_that_repeats_the_query(content, base):
    """The compressed length would reveal whether a guess in the query is a listed name (BREACH)."""
    for method in ("GET", "HEAD"):
        answer = content.request(method, f"{base}/?guess=a.txt", headers=JSON)
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-0"}])
def test_compression_is_off_for_artifacts_with_repr_digest(content, base, method, headers):
    answer = content.request(
        method, f"{base}/a.txt", headers={"Accept-Encoding": "gzip", **headers}
    )
    digest = b64encode(hashlib.sha256(b"abc").digest()).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/a.txt", "/nope"])
def test_cors_allows_any_origin_for_unguarded_distributions(browsable, base, path):
    for _ in range(2):  # the second is a cache hit
        answer = httpx.get(f"{browsable.content_url}{base}{path}", headers=ORIGIN)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]


def test_cors_preflight_allows_range_and_conditional_headers(browsable, base):
    preflight = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    answer = httpx.options(f"{browsable.content_url}{base}/a.txt", headers=ORIGIN | preflight)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Range" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("headers", [{}, {"X-Key": "b3Blbg=="}])
def test_cors_allows_no_origin_for_guarded_distributions(browsable, guarded, headers):
    for path in ("/", "/a.txt", ""):
        answer = httpx.get(f"{browsable.content_url}{guarded}{path}", headers=ORIGIN | headers)
        assert answer.status_code in ((200, 301) if headers else (403,))
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_cors_is_off_by_default(content, base):
    for method in ("GET", "OPTIONS"):
        answer = content.request(method, f"{base}/a.txt", headers=ORIGIN)
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_root_redirects_to_content_where_it_is_set(instance, browsable):
    for url in (instance.url, browsable.url):  # set by `pulp-star up`
        answer = httpx.get(f"{url}/")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/pulp/content/")
    assert httpx.post(f"{browsable.url}/").status_code in (403, 404)


def test_root_is_left_to_django_by_default(instance):
    with serving(instance, PULP_CONTENT_STAR_REDIRECT_ROOT="false") as server:
        assert httpx.get(f"{server.url}/").status_code == 404
        icon = httpx.get(f"{server.url}/favicon.ico")
    assert (icon.status_code, icon.headers["Content-Type"]) == (200, "image/svg+xml")
