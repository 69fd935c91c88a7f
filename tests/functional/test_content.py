"""Content of distributions: publications, base paths, listings, index pages and methods."""

import hashlib
from urllib.parse import quote

import httpx
import pytest

from tests.support.listing_parser import parse_listing
from tests.support.pulp import unique

FILES = {"a.txt": b"first", "dir/b.txt": b"second", "dir/sub/c.bin": b"third" * 1000}


@pytest.fixture(scope="module")
def sample(instance) -> dict[str, str]:
    """A published repository for tests that only read it."""
    pulp = instance.pulp()
    repository = pulp.repository(FILES)
    publication = pulp.publish(repository)
    yield {"repository": repository, "publication": publication}
    pulp.cleanup()


def test_distribution_of_a_publication_serves_files_and_metadata(pulp, content, sample):
    base = pulp.distribute(publication=sample["publication"])
    for path, data in FILES.items():
        response = content.get(f"{base}/{path}")
        assert response.status_code == 200
        assert response.content == data
        assert response.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    manifest = content.get(f"{base}/PULP_MANIFEST")
    assert manifest.status_code == 200
    assert {line.split(",")[0] for line in manifest.text.splitlines()} == set(FILES)


def test_distribution_of_a_repository_serves_its_latest_publication(pulp, content):
    repository = pulp.repository({"old.txt": b"old"})
    pulp.publish(repository)
    base = pulp.distribute(repository=repository)
    assert content.get(f"{base}/old.txt").content == b"old"
    pulp.upload(repository, "new.txt", b"new")
    assert content.get(f"{base}/new.txt").status_code == 404, "not published yet"
    pulp.publish(repository)
    assert content.get(f"{base}/new.txt").content == b"new"


def test_distribution_of_a_repository_version_serves_that_version(pulp, content):
    repository = pulp.repository({"one.txt": b"1", "two.txt": b"2"})
    pulp.publish(repository)
    version = pulp.publish(repository) and f"{repository}versions/1/"
    pulp.create("publications/file/file/", repository_version=version)
    base = pulp.distribute(repository_version=version)
    assert content.get(f"{base}/one.txt").content == b"1"
    assert content.get(f"{base}/two.txt").status_code == 404


def test_distribution_of_an_unpublished_repository_returns_404_with_reason(pulp, content):
    base = pulp.distribute(repository=pulp.repository({"a.txt": b"a"}))
    response = content.get(f"{base}/a.txt")
    assert response.status_code == 404
    assert "no publication yet" in response.text


def test_distribution_of_nothing_returns_404_with_reason(pulp, content):
    base = pulp.distribute()
    response = content.get(f"{base}/a.txt")
    assert response.status_code == 404
    assert "not pointing to a publication" in response.text


def test_replaced_publication_is_served_during_its_grace_period(pulp, content):
    repository = pulp.repository()
    gone = pulp.upload(repository, "gone.txt", b"was here")
    old = pulp.publish(repository)
    base = pulp.distribute(publication=old)
    pulp.remove(repository, gone)
    new = pulp.publish(repository)
    href = next(h for h in pulp._created if "/distributions/" in h)
    pulp.task(pulp.http.patch(href, json={"publication": new}))
    assert "gone.txt" not in content.get(f"{base}/PULP_MANIFEST").text
    assert content.get(f"{base}/gone.txt").content == b"was here"
    assert "gone.txt" not in parse_listing(content.get(f"{base}/").text)


def test_base_path_prefix_lists_the_distributions_below_it(pulp, content, sample):
    top = unique("top")
    for base in (f"{top}/x/one", f"{top}/x/two", f"{top}/y"):
        pulp.distribute(base, publication=sample["publication"])
    assert list(parse_listing(content.get(f"{top}/").text)) == ["x/", "y/"]
    assert list(parse_listing(content.get(f"{top}/x/").text)) == ["one/", "two/"]
    assert content.get(f"{top}/x/two/a.txt").content == FILES["a.txt"]
    assert content.get(f"{top}/z/").status_code == 404
    assert content.get(f"{top}/x/tw/").status_code == 404, "half a segment is not a prefix"


def test_root_lists_distributions_except_hidden_ones(pulp, content, sample):
    shown = pulp.distribute(publication=sample["publication"])
    hidden = pulp.distribute(publication=sample["publication"], hidden=True)
    names = parse_listing(content.get("").text)
    assert f"{shown}/" in names
    assert f"{hidden}/" not in names
    assert content.get(f"{hidden}/a.txt").status_code == 200, "hidden, but served"


def test_root_does_not_list_the_artifact_distribution(content, orm):
    from pulpcore.app.models import ArtifactDistribution

    base_path = ArtifactDistribution.objects.get().base_path
    assert f"{base_path}/" not in parse_listing(content.get("").text)


def test_base_path_prefix_of_hidden_distributions_returns_404(pulp, content, sample):
    top = unique("top")
    pulp.distribute(f"{top}/below", publication=sample["publication"], hidden=True)
    assert content.get(f"{top}/").status_code == 404


@pytest.mark.parametrize("query", ["", "?a=1&b=%2F%20x"])
def test_missing_slash_redirects_with_the_query(pulp, content, sample, query):
    top = unique("top")
    base = pulp.distribute(f"{top}/é:%20<", publication=sample["publication"])
    for path in (
        "",
        f"/{top}",
        f"/{quote(base)}",
        f"/{quote(base)}/dir",
        f"/{quote(base)}/dir/sub",
    ):
        url = str(content.base_url).removesuffix("/") + path
        response = content.get(url + query)
        assert response.status_code == 301, url
        location = httpx.URL(url).join(response.headers["Location"])
        assert location.path == httpx.URL(url).path + "/"
        assert location.query == query.removeprefix("?").encode()
        assert content.get(location).status_code == 200


def test_listing_has_one_level_with_dates_and_sizes(pulp, content, sample):
    base = pulp.distribute(publication=sample["publication"])
    root = parse_listing(content.get(f"{base}/").text)
    assert list(root) == ["PULP_MANIFEST", "a.txt", "dir/"]
    assert root["a.txt"].size == "5 Bytes"
    assert root["dir/"].size == ""
    assert all(entry.date for entry in root.values())
    below = parse_listing(content.get(f"{base}/dir/").text)
    assert list(below) == ["b.txt", "sub/"]
    deepest = parse_listing(content.get(f"{base}/dir/sub/").text)
    assert deepest["c.bin"].size == "5.0 kB"
    assert content.get(f"{base}/di/").status_code == 404


PAGE = b"<h1>Welcome</h1><script>alert(1)</script>"


def test_index_page_of_a_publication_is_served_for_its_directory(content, orm):
    publication = orm.publication({"docs/index.html": PAGE, "docs/other.txt": b"x"})
    assert_index_is_served(content, orm.distribution(publication=publication))


def test_index_page_of_a_repository_version_is_served_for_its_directory(content, orm):
    version = orm.version({"docs/index.html": PAGE, "docs/other.txt": b"x"})
    base = orm.distribution(repository_version=version, from_publication=False)
    assert_index_is_served(content, base)


def assert_index_is_served(content, base):
    response = content.get(f"{base}/docs/")
    assert response.content == PAGE
    assert response.headers["Content-Type"] == "text/html"
    assert response.headers["Content-Disposition"].startswith("inline")
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert content.get(f"{base}/docs").status_code == 301
    download = content.get(f"{base}/docs/index.html")
    assert download.content == PAGE
    assert download.headers["Content-Disposition"].startswith("attachment")


def test_head_has_the_headers_of_get_and_no_body(pulp, content, sample):
    base = pulp.distribute(publication=sample["publication"])
    got, headed = content.get(f"{base}/a.txt"), content.head(f"{base}/a.txt")
    assert headed.status_code == 200
    assert headed.content == b""
    volatile = ("date", "correlation-id")
    assert {k: v for k, v in headed.headers.items() if k not in volatile} == {
        k: v for k, v in got.headers.items() if k not in volatile
    }
    listing = content.head(f"{base}/dir/")
    assert listing.status_code == 200
    assert listing.headers["Content-Type"].startswith("text/html")
    assert content.head(f"{base}/nope/").status_code == 404
    assert content.head("").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"])
def test_method_not_allowed_returns_405(content, method):
    response = content.request(method, "anything", content=b"")
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_options_returns_the_allowed_methods(content):
    response = content.options("anything")
    assert response.status_code == 200
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_error_is_text_or_json_by_accept_header(content):
    text = content.get("no/such/thing")
    assert text.status_code == 404
    assert text.headers["Content-Type"].startswith("text/plain")
    assert "no/such/thing" in text.text
    json = content.get("no/such/thing", headers={"Accept": "application/json"})
    assert json.status_code == 404
    assert "no/such/thing" in json.json()["detail"]
    assert json.headers["Vary"] == "Accept"


def test_correlation_id_is_the_clients_or_generated(content):
    mine = "9f1b6c3e0b8a4f0f9a4c0b6f6d1f2a3b"
    assert content.get("", headers={"Correlation-ID": mine}).headers["Correlation-ID"] == mine
    forged = content.get("", headers={"Correlation-ID": "x] forged"}).headers["Correlation-ID"]
    assert len(forged) == 32
    assert content.get("nope").headers["Correlation-ID"] != forged


def test_base_path_that_is_longest_wins_where_they_nest(orm, content):
    """pulpcore's trigger refuses nested base paths, but older databases may have some."""
    from django.db import connection

    top = orm.unique()
    outer = orm.distribution(top, publication=orm.publication({"a.txt": b"outer", "x/b": b"b"}))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE core_distribution DISABLE TRIGGER USER")
        try:
            inner = orm.distribution(f"{top}/x", publication=orm.publication({"a.txt": b"inner"}))
        finally:
            cursor.execute("ALTER TABLE core_distribution ENABLE TRIGGER USER")
    assert content.get(f"{outer}/a.txt").content == b"outer"
    assert content.get(f"{inner}/a.txt").content == b"inner"
    assert content.get(f"{outer}/x/b").status_code == 404
