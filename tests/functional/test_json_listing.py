"""JSON listings: format, pagination, content negotiation, and the JSON of plugins."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from unittest.mock import patch
from urllib.parse import quote

import httpx
import pytest
from aiohttp.web import json_response
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pulp_file.app.models import FileDistribution
from starlette.requests import Request

from pulpcore.app.models import (
    Content,
    ContentArtifact,
    Distribution,
    PublishedArtifact,
    RBACContentGuard,
)
from pulpcore.content_star import views
from pulpcore.content_star.listings import directory, pagination, stream
from pulpcore.content_star.listings.pagination import make_cursor
from pulpcore.content_star.resolve.paths import ContentPath
from tests.functional.test_paths import NAMES
from tests.support.asgi import get
from tests.support.listing_parser import parse_listing

JSON = {"Accept": "application/json"}
ROOT = "/pulp/content/"


@pytest.fixture(scope="module")
def publication(module_orm):
    """A publication whose paths tests replace with `publish_at`."""
    publication = module_orm.publication({"seed": b"seed!"})
    publication.content_artifact = PublishedArtifact.objects.get(
        publication=publication
    ).content_artifact
    return publication


@pytest.fixture(scope="module")
def replaceable(module_orm, publication) -> str:
    return module_orm.distribution(publication=publication)


@pytest.fixture(scope="module")
def sample(module_orm) -> str:
    """The base path of a distribution with a file, an index page and a directory."""
    files = {"file.json": b'{"a": "file"}', "dir/index.html": b"<p>page</p>", "dir/b": b"bb"}
    return module_orm.distribution(publication=module_orm.publication(files))


def publish_at(publication, paths) -> None:
    """Publish the same file at all of `paths`, and at no others."""
    PublishedArtifact.objects.filter(publication=publication).delete()
    PublishedArtifact.objects.bulk_create(
        PublishedArtifact(
            publication=publication,
            content_artifact=publication.content_artifact,
            relative_path=path,
        )
        for path in paths
    )


def names(listing: dict) -> list[str]:
    """Return the names of a JSON listing, directories with a slash as in HTML."""
    slash = {"directory": "/", "file": ""}
    return [entry["name"] + slash[entry["type"]] for entry in listing["entries"]]


def all_pages(fetch, url: str) -> list[dict]:
    """Return all pages of a listing, by following `next`."""
    pages, location = [], httpx.URL("http://pulp").join(url)
    while True:
        response = fetch(location.raw_path.decode())
        assert response.status_code == 200, response.text
        pages.append(response.json())
        if pages[-1]["next"] is None:
            return pages
        assert len(pages) < 10_000, "endless pagination"
        location = location.join(pages[-1]["next"])


def all_names(pages: list[dict]) -> list[str]:
    return [name for page in pages for name in names(page)]


def test_json_listing_format(content, module_orm):
    version = module_orm.version({"dir/sub/c": b"c" * 3000, "dir/é %#?:": b"12345", "dir/z": b""})
    base = module_orm.distribution(
        publication=module_orm.publication({"dir/meta": b"m"}, version=version)
    )
    response = content.get(f"{base}/dir/", headers=JSON)
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    listing = response.json()
    dates = [datetime.fromisoformat(entry.pop("modified")) for entry in listing["entries"]]
    assert all(date.utcoffset().total_seconds() == 0 for date in dates)
    assert listing == {
        "path": f"{ROOT}{base}/dir/",
        "entries": [
            {"name": "meta", "type": "file", "href": "meta", "size": 1},
            {"name": "sub", "type": "directory", "href": "sub/", "size": None},
            {"name": "z", "type": "file", "href": "z", "size": 0},
            {"name": "é %#?:", "type": "file", "href": "./%C3%A9%20%25%23%3F%3A", "size": 5},
        ],
        "next": None,
    }


def test_json_listing_date_is_last_modified_of_the_file(content, module_orm):
    version = module_orm.version({"a": b"a"})
    base = module_orm.distribution(from_publication=False, repository_version=version)
    (entry,) = content.get(f"{base}/", headers=JSON).json()["entries"]
    sent = parsedate_to_datetime(content.get(f"{base}/a").headers["Last-Modified"])
    assert datetime.fromisoformat(entry["modified"]) == sent


@pytest.mark.parametrize("from_publication", [True, False])
def test_json_listing_of_file_names_with_special_characters(content, module_orm, from_publication):
    files = {f"{name}/{name}": name.encode() for name in NAMES}
    if from_publication:
        source = {"publication": module_orm.publication(files)}
    else:
        source = {"repository_version": module_orm.version(files)}
    base = module_orm.distribution(from_publication=from_publication, **source)
    root = content.get(f"{base}/", headers=JSON)
    assert names(root.json()) == sorted(f"{name}/" for name in NAMES)
    for entry in root.json()["entries"]:
        below = content.get(root.url.join(entry["href"]), headers=JSON)
        (file,) = below.json()["entries"]
        assert file["name"] == entry["name"]
        downloaded = content.get(below.url.join(file["href"]), headers=JSON)
        assert downloaded.content == file["name"].encode()


MANY = [f"{case}{number}" for number in range(800) for case in ("f", "F", "_ß")] + [
    f"d{number}{rest}" for number in range(100) for rest in ("/x", "/y", "")
]


def test_pagination_of_a_large_publication_equals_the_html_listing(
    content, publication, replaceable
):
    publish_at(publication, MANY)
    pages = all_pages(lambda url: content.get(_below(url), headers=JSON), f"{ROOT}{replaceable}/")
    assert [len(page["entries"]) for page in pages] == [1000, 1000, 600]
    html = content.get(f"{replaceable}/")
    assert all_names(pages) == list(parse_listing(html.text))
    assert all_names(pages) == sorted({_entry(path) for path in MANY})


def test_pagination_of_a_large_version_equals_the_html_listing(content, module_orm):
    version = module_orm.version({"seed": b"seed!"})
    (seed,) = ContentArtifact.objects.filter(content__in=version.content)
    ContentArtifact.objects.bulk_create(
        ContentArtifact(content=seed.content, artifact=seed.artifact, relative_path=path)
        for path in MANY
    )
    base = module_orm.distribution(from_publication=False, repository_version=version)
    pages = all_pages(lambda url: content.get(_below(url), headers=JSON), f"{ROOT}{base}/")
    assert [len(page["entries"]) for page in pages] == [1000, 1000, 601]
    assert all_names(pages) == list(parse_listing(content.get(f"{base}/").text))


def _below(url: str) -> str:
    return url.removeprefix(ROOT)


def _entry(path: str) -> str:
    """Return the entry of the directory that leads to `path`, relative to it."""
    name, slash, _ = path.partition("/")
    return name + slash


# Characters that sort next to the slash, by case, or by another order than code points.
_character = st.sampled_from("aAbB-_.!0 ~ßéÉ𝔘ｆ/") | st.characters(
    codec="utf-8", exclude_characters="\0"
)
_paths = st.sets(st.text(_character, min_size=1, max_size=6), min_size=1, max_size=14)
_bounded = hypothesis_settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("rows", [1, directory.ROWS])
@_bounded
@given(paths=_paths, added=_paths, size=st.integers(1, 6))
@example(paths={"a", "a/b", "a-b", "A", "a.b/c"}, added={"a", "a/", "b/"}, size=1)
@example(paths={"/", "//", "/a"}, added={"z"}, size=1)
def test_pagination_yields_the_sorted_set_of_names(
    app, publication, replaceable, rows, paths, added, size
):
    """With one row per query, names are found by skip scans."""
    publish_at(publication, paths)
    extra = {_entry(path) for path in added}
    with (
        patch.object(pagination, "PAGE_SIZE", size),
        patch.object(directory, "ROWS", rows),
        patch.object(directory, "entry_cache", directory.EntryCache(0)),
        patch.object(
            FileDistribution, "content_handler_list_directory", lambda self, path: extra, create=1
        ),
    ):
        pages = all_pages(lambda url: get(app, url, JSON), f"{ROOT}{replaceable}/")
    assert all_names(pages) == sorted({_entry(path) for path in paths} | extra)
    assert all(len(page["entries"]) == size for page in pages[:-1])
    assert pages[-1]["entries"]


# Pulp allows no base path with white space, dot segments or empty segments.
_bases = st.sets(
    st.text(_character, min_size=1, max_size=6).filter(
        lambda base: not re.search(r"[\s?#]|/\.{0,2}/", f"/{base}/")
    ),
    min_size=1,
    max_size=14,
)


@_bounded
@given(bases=_bases, size=st.integers(1, 6))
@example(bases={"a/x", "a-b", "A", "a.b/c", "B", "ab"}, size=1)
def test_pagination_of_base_paths_yields_the_sorted_set_of_names(app, module_orm, bases, size):
    top = module_orm.unique()
    rows = [
        Distribution(name=f"{top}/{base}", base_path=f"{top}/{base}", pulp_type="file.file")
        for base in bases
    ]
    Distribution.objects.bulk_create(rows)
    try:
        with patch.object(pagination, "PAGE_SIZE", size):
            pages = all_pages(lambda url: get(app, url, JSON), f"{ROOT}{top}/")
        html = parse_listing(get(app, f"{ROOT}{top}/").text)
    finally:
        Distribution.objects.filter(base_path__startswith=f"{top}/").delete()
    assert all_names(pages) == sorted({f"{base.split('/')[0]}/" for base in bases})
    assert list(html) == all_names(pages)
    assert all(entry["modified"] is None for page in pages for entry in page["entries"])


def test_json_index_describes_the_distributions(content, pulp, module_orm):
    top, guard = module_orm.unique(), module_orm.guard(RBACContentGuard)
    version = module_orm.version({"a": b"1", "b": b"2"})
    repository = version.repository
    publication = module_orm.publication({"a": b"1"}, version=version)
    labels = {"team": "blue", "nameless": None}
    served = {
        "latest": (
            {"repository": repository, "pulp_labels": labels},
            f"version 1 of {repository.name}, the latest",
            2,
        ),
        "nothing": ({}, "nothing yet", None),
        "publication": (
            {"publication": publication},
            f"publication of version 1 of {repository.name}",
            2,
        ),
        "version": (
            {"repository_version": version, "content_guard": guard},
            f"version 1 of {repository.name}",
            2,
        ),
    }
    for name, (fields, _, _) in served.items():
        module_orm.distribution(f"{top}/{name}", from_publication=False, **fields)
    module_orm.distribution(f"{top}/latest-but/below")
    module_orm.distribution(f"{top}/hidden", hidden=True)
    entries = content.get(f"{top}/", headers=JSON).json()["entries"]
    found = {entry["name"]: entry["distribution"] for entry in entries}
    assert found.pop("latest-but") is None
    assert found.keys() == served.keys()
    for name, (fields, words, units) in served.items():
        row = Distribution.objects.get(base_path=f"{top}/{name}")
        assert found[name] == {
            "name": row.name,
            "type": row.pulp_type,
            "serves": words,
            "units": units,
            "labels": fields.get("pulp_labels", {}),
            "guarded": "content_guard" in fields,
            "changed": row.pulp_last_updated.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        use = content.get(f"{top}/{name}/?use", headers=JSON, auth=pulp.auth).json()
        assert words.removesuffix(", the latest") == use["serves"]


def test_index_describes_the_publication_that_a_repository_serves(content, module_orm):
    top, version = module_orm.unique(), module_orm.version({"a": b"1", "b": b"2"})
    module_orm.publication({}, version=version)
    with version.repository.cast().new_version() as unpublished:
        unpublished.remove_content(Content.objects.filter(pk__in=unpublished.content.all()[:1]))
    without = module_orm.version({"a": b"1"}).repository
    module_orm.distribution(f"{top}/published", repository=version.repository)
    module_orm.distribution(f"{top}/without", repository=without)
    served = {
        "published": (f"publication of version 1 of {version.repository.name}, the latest", 2),
        "without": (f"no publication of {without.name} yet", None),
    }
    entries = content.get(f"{top}/", headers=JSON).json()["entries"]
    facts = {entry["name"]: entry["distribution"] for entry in entries}
    assert {name: (each["serves"], each["units"]) for name, each in facts.items()} == served
    assert names(content.get(f"{top}/published/", headers=JSON).json()) == ["a", "b"]
    assert content.get(f"{top}/without/", headers=JSON).status_code == 404
    page = content.get(f"{top}/", headers={"Accept": "text/html"}).text
    assert all(words in page for words, _ in served.values())


def test_pagination_is_stable_when_entries_are_added_and_removed(
    app, publication, replaceable, monkeypatch
):
    monkeypatch.setattr(pagination, "PAGE_SIZE", 2)
    publish_at(publication, ["b", "d", "f", "h"])
    first = get(app, f"{ROOT}{replaceable}/", JSON).json()
    assert names(first) == ["b", "d"]
    publish_at(publication, ["a", "c", "f", "g", "h"])
    second = get(app, f"{ROOT}{replaceable}/{first['next']}", JSON).json()
    assert names(second) == ["f", "g"]
    publish_at(publication, ["a"])
    third = get(app, f"{ROOT}{replaceable}/{second['next']}", JSON)
    assert third.status_code == 200, "an existing directory without further entries"
    assert third.json()["entries"] == []
    assert third.json()["next"] is None


@contextmanager
def rows_read() -> Iterator[list[int]]:
    """Collect the number of rows that each query of this thread returns."""
    rows: list[int] = []

    def count(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        rows.append(context["cursor"].rowcount)
        return result

    # With the query log on, prepared statements go through Django's cursor too.
    with CaptureQueriesContext(connection), connection.execute_wrapper(count):
        yield rows


def rows_of_request(
    path: str, query: str = "", method: str = "GET", accept: str = "application/json"
):
    """Make the response as the executor's threads do; return the number of rows of each query."""
    url = f"{ROOT}{path}"
    scope = {
        "type": "http",
        "method": method,
        "path": url,
        "raw_path": quote(url).encode(),
        "query_string": query.encode(),
        "headers": [(b"accept", accept.encode())],
    }
    with rows_read() as rows:
        views.respond(Request(scope), ContentPath("default", path))
    return rows


@pytest.mark.parametrize("cursor", [None, "a", "f5"])
def test_pagination_reads_one_row_more_than_the_page(publication, replaceable, monkeypatch, cursor):
    monkeypatch.setattr(pagination, "PAGE_SIZE", 10)
    monkeypatch.setattr(stream, "row_cache", stream.RowCache(0))
    directory.path_order()
    publish_at(publication, MANY)
    query = f"cursor={make_cursor(cursor)}" if cursor else ""
    rows = rows_of_request(f"{replaceable}/", query)
    assert max(rows) == 11
    assert len(rows) == len(rows_of_request(f"{replaceable}/", accept="*/*")) - 1, (
        "no query for index.html"
    )
    assert max(rows_of_request(f"{replaceable}/", method="HEAD")) == 1


def test_pagination_of_base_paths_reads_one_row_more_than_the_page(module_orm, monkeypatch):
    monkeypatch.setattr(pagination, "PAGE_SIZE", 10)
    top = module_orm.unique()
    bases = [f"{top}/{number}/{leaf}" for number in range(30) for leaf in "ab"]
    Distribution.objects.bulk_create(
        Distribution(name=base, base_path=base, pulp_type="file.file") for base in bases
    )
    try:
        assert max(rows_of_request(f"{top}/")) == 11
        assert max(rows_of_request(f"{top}/", f"cursor={make_cursor('5/')}")) == 4, (
            "6/, 7/, 8/ and 9/"
        )
        assert max(rows_of_request(f"{top}/", method="HEAD")) == 1
    finally:
        Distribution.objects.filter(base_path__startswith=f"{top}/").delete()


def test_pagination_sorts_by_code_point_in_the_query_plan(module_orm, publication, replaceable):
    """The instance's database has no other collation, so the query plan is checked."""
    publish_at(publication, MANY)
    top = module_orm.distribution(f"{module_orm.unique()}/below").partition("/")[0]
    for path in (f"{replaceable}/", f"{top}/"):
        with CaptureQueriesContext(connection) as queries:
            rows_of_request(path)
        paged = next(query["sql"] for query in reversed(queries) if "LIMIT 1001" in query["sql"])
        with connection.cursor() as database:
            database.execute(f"EXPLAIN VERBOSE {paged}")
            plan = [line for (line,) in database]
        # Sorts below it are by ids, for joins, or in the order of the database, which is the same.
        assert directory.path_order().using == ""
        sorts = [line for line in plan if "Sort Key" in line and "_path" in line]
        assert sorts, plan
        assert 'COLLATE "C"' in sorts[0], plan


BAD_CURSORS = ["", "x", "A", "!", "é", "PmE=PmE", "%00", "PgA", "Pv8", "YWJj", "..%2f", "1000"]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_cursor_that_is_malformed_returns_400(content, sample, method, cursor):
    for path in (f"{sample}/", f"{sample}/dir/", ""):
        response = content.request(method, f"{path}?cursor={cursor}", headers=JSON)
        assert response.status_code == 400
        assert method == "HEAD" or "cursor" in response.json()["detail"]
        assert content.request(method, f"{path}?cursor={cursor}").status_code == 200, "HTML"


def test_cursor_that_is_forged_shows_no_unlisted_entries(content, sample):
    whole = names(content.get(f"{sample}/", headers=JSON).json())
    for name in ("../", "/", "dir/", "dir/b", "\U0010ffff", "' OR 1=1 --", "%"):
        response = content.get(f"{sample}/?cursor={make_cursor(name)}", headers=JSON)
        assert names(response.json()) == [entry for entry in whole if entry > name]
    assert content.get(f"nope/?cursor={make_cursor('a')}", headers=JSON).status_code == 404
    response = content.get(f"{sample}/nope/?cursor={make_cursor('a')}", headers=JSON)
    assert response.status_code == 404


PREFER_HTML = [
    "*/*",  # curl, apt, dnf
    "",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1,"
    " text/html; q=0.01",  # pip
    "application/json;q=0.5, text/html",
    "application/json;q=0, */*",
    "text/html, application/json",
    "application/json;a*=nonsense''%ff",
]
PREFER_JSON = [
    "application/json",
    "application/json, */*;q=0.5",
    "application/json, text/plain, */*",
    "text/html;q=0.3, application/json;q=0.9",
    "application/*",
]


@pytest.mark.parametrize("accept", PREFER_HTML + PREFER_JSON)
def test_accept_header_selects_html_or_json_with_vary(content, sample, accept):
    is_json = accept in PREFER_JSON
    top = content.get("", headers={"Accept": accept})
    listed = content.get(f"{sample}/", headers={"Accept": accept})
    page = content.get(f"{sample}/dir/", headers={"Accept": accept})
    for response in (top, listed, page):
        form = "application/json" if is_json else "text/html"
        assert response.headers["Content-Type"].partition(";")[0] == form
    assert [each.headers["Vary"] for each in (top, listed)] == ["Accept-Encoding, Accept"] * 2
    assert page.headers["Vary"] == ("Accept-Encoding, Accept" if is_json else "Accept")
    assert (page.text == "<p>page</p>") is not is_json
    assert not is_json or names(page.json()) == ["b", "index.html"]
    file = content.get(f"{sample}/file.json", headers={"Accept": accept})
    assert file.content == b'{"a": "file"}'
    assert "Vary" not in file.headers, "a shared cache needs one copy of a file"
    assert "Content-Disposition" in file.headers


def test_index_page_304_has_vary(content, sample):
    tag = content.get(f"{sample}/dir/").headers["ETag"]
    response = content.get(f"{sample}/dir/", headers={"If-None-Match": tag})
    assert response.status_code == 304
    assert response.headers["Vary"] == "Accept"
    response = content.get(f"{sample}/dir/", headers={"If-None-Match": tag, **JSON})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["", "/", "/dir", "/dir/", "/file.json", "/nope", "/nope/"])
def test_head_has_the_headers_of_get_and_no_body(content, sample, path):
    got = content.get(sample + path, headers=JSON)
    headed = content.head(sample + path, headers=JSON)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    # The ETag of a listing is only known after it was rendered.
    ignored = {"date", "correlation-id", "content-length", "etag" * path.endswith("/")}
    if got.headers.get("ETag", "").startswith("W/") and not path:
        ignored.add("etag")
    assert {k: v for k, v in headed.headers.items() if k not in ignored} == {
        k: v for k, v in got.headers.items() if k not in ignored
    }


def test_missing_slash_redirects_with_the_query(content, sample):
    for path in ("", "/dir"):
        response = content.get(f"{sample}{path}?cursor=x&a=b", headers=JSON)
        assert response.status_code == 301
        assert response.headers["Location"] == f"{ROOT}{sample}{path}/?cursor=x&a=b"


def test_hidden_and_guarded_distributions_are_not_listed(content, pulp, orm):
    from pulpcore.app.models import Domain

    top = orm.unique()
    guard = pulp.create("contentguards/core/rbac/", name=orm.unique())
    orm.distribution(f"{top}/shown")
    orm.distribution(f"{top}/secret", hidden=True)
    pulp.distribute(f"{top}/guarded", content_guard=guard["pulp_href"])
    domains = Domain.objects.filter(name="default")
    assert names(content.get(f"{top}/", headers=JSON).json()) == ["guarded/", "shown/"]
    try:
        domains.update(hide_guarded_distributions=True)
        listing = content.get(f"{top}/", headers=JSON).json()
    finally:
        domains.update(hide_guarded_distributions=False)
    assert names(listing) == ["shown/"]
    below = content.get(f"{top}/?cursor={make_cursor('o')}", headers=JSON)
    assert names(below.json()) == ["shown/"]
    orm.distribution(f"{top}2/secret", hidden=True)
    assert content.get(f"{top}2/", headers=JSON).status_code == 404


@pytest.mark.parametrize("path", ["/", "/dir/", "/file.json", "/?cursor=x", "/nope/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_guard_denies_before_listings_and_cursors(content, pulp, orm, method, path):
    guard = pulp.create("contentguards/core/rbac/", name=orm.unique())
    publication = orm.publication({"file.json": b"{}", "dir/b": b"b"})
    href = guard["pulp_href"]
    base = orm.distribution(publication=publication)
    distribution = FileDistribution.objects.get(base_path=base)
    distribution.content_guard_id = href.rstrip("/").rpartition("/")[2]
    distribution.save()
    response = content.request(method, f"{base}{path}", headers=JSON)
    assert response.status_code == 401
    assert method == "HEAD" or list(response.json()) == ["detail"]
    assert b"file.json" not in response.content


def test_redirect_guard_permits_the_next_page_with_the_signature_of_the_first(
    app, pulp, orm, monkeypatch
):
    from pulpcore.app.models import ContentRedirectContentGuard

    monkeypatch.setattr(pagination, "PAGE_SIZE", 2)
    publication = orm.publication(dict.fromkeys("abcde", b""))
    guard = ContentRedirectContentGuard(name=orm.unique())
    guard.save()
    try:
        base = orm.distribution(publication=publication, content_guard=guard)
        url = guard.preauthenticate_url(f"http://pulp{ROOT}{base}/")
        pages = all_pages(lambda url: get(app, url, JSON), url)
        assert [names(page) for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
        assert pages[1]["next"].count("cursor=") == 1
        assert get(app, f"{ROOT}{base}/?cursor={make_cursor('a')}", JSON).status_code == 403
    finally:
        orm.cleanup()
        guard.delete()


# The JSON of plugins


@pytest.fixture
def plugin(monkeypatch):
    """Return a function that adds `content_handler_json` to pulp_file's distributions."""

    def install(hook) -> None:
        monkeypatch.setattr(
            FileDistribution, "content_handler_json", lambda self, path: hook(path), raising=False
        )

    return install


@pytest.mark.parametrize("answer", [{"packages": ["é"]}, [], {}, [1, None]])
@pytest.mark.parametrize("path", ["/", "/dir/", "/file.json", "/virtual", "/dir/b"])
def test_plugin_json_precedes_files_and_listings(app, sample, plugin, path, answer):
    calls = []
    plugin(lambda path: calls.append(path) or answer)
    response = get(app, f"{ROOT}{sample}{path}", JSON)
    assert response.status_code == 200
    assert response.json() == answer
    assert calls == [path.removeprefix("/")]
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Vary"] == "Accept"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_plugin_json_is_not_sent_to_clients_that_prefer_html(app, sample, plugin):
    calls = []
    plugin(calls.append)
    for path, says in (("/file.json", "file"), ("/", "Index of"), ("/dir/", "page")):
        response = get(app, f"{ROOT}{sample}{path}")
        assert says in response.text
        assert response.headers["Vary"].split(", ")[-1] == "Accept"
    assert calls == []


@pytest.mark.parametrize(
    ("own", "sent"), [("Cookie", "Cookie, Accept"), ("*", "*"), ("x, accept", "x, accept")]
)
def test_plugin_vary_header_is_kept_and_extended_by_accept(
    app, sample, plugin, monkeypatch, own, sent
):
    plugin(lambda path: None)
    monkeypatch.setattr(FileDistribution, "content_headers_for", lambda self, path: {"Vary": own})
    assert get(app, f"{ROOT}{sample}/file.json").headers["Vary"] == sent


def test_plugin_json_of_none_serves_the_path_as_without_it(app, sample, plugin, monkeypatch):
    plugin(lambda path: None)
    assert get(app, f"{ROOT}{sample}/file.json", JSON).content == b'{"a": "file"}'
    listing = get(app, f"{ROOT}{sample}/dir/", JSON)
    assert names(listing.json()) == ["b", "index.html"]
    assert listing.headers["Vary"] == "Accept-Encoding, Accept"
    assert get(app, f"{ROOT}{sample}/nope", JSON).status_code == 404
    found = ContentArtifact.objects.filter(relative_path="dir/b").latest("pulp_created")
    monkeypatch.setattr(FileDistribution, "content_handler", lambda self, path: found)
    assert get(app, f"{ROOT}{sample}/virtual", JSON).content == b"bb", "content_handler is next"


def test_plugin_json_is_not_called_for_the_root_without_slash(app, sample, plugin):
    plugin(lambda path: {"path": path})
    assert get(app, f"{ROOT}{sample}", JSON).status_code == 301


def test_plugin_json_may_be_an_aiohttp_response(app, sample, plugin):
    plugin(lambda path: json_response({"a": 1}, status=203, headers={"X-Of": "the plugin"}))
    response = get(app, f"{ROOT}{sample}/", JSON)
    assert (response.status_code, response.json()) == (203, {"a": 1})
    assert response.headers["X-Of"] == "the plugin"
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("answer", [object(), {"a": {1}}, float("nan")])
def test_plugin_json_that_is_not_serializable_returns_500(app, sample, plugin, caplog, answer):
    plugin(lambda path: answer)
    response = get(app, f"{ROOT}{sample}/", JSON)
    assert response.status_code == 500
    assert response.headers["Correlation-ID"] in response.json()["detail"]
    assert "JSON" in caplog.text


def test_guard_denies_before_plugin_json(app, orm, plugin):
    from pulpcore.app.models import HeaderContentGuard

    plugin(lambda path: {"secret": path})
    guard = HeaderContentGuard(name=orm.unique(), header_name="x-key", header_value="open")
    guard.save()
    try:
        base = orm.distribution(publication=orm.publication({"a": b"a"}), content_guard=guard)
        response = get(app, f"{ROOT}{base}/", JSON)
        assert response.status_code == 403
        assert "secret" not in response.text
        opened = get(app, f"{ROOT}{base}/", JSON | {"X-Key": "b3Blbg=="})
        assert opened.json() == {"secret": ""}
    finally:
        orm.cleanup()
        guard.delete()


def test_pulpcore_without_content_handler_json_is_served(app, sample, monkeypatch):
    monkeypatch.delattr(Distribution, "content_handler_json", raising=False)
    assert get(app, f"{ROOT}{sample}/file.json", JSON).content == b'{"a": "file"}'
    assert names(get(app, f"{ROOT}{sample}/", JSON).json()) == ["dir/", "file.json"]
    monkeypatch.setattr(
        FileDistribution, "content_handler_json", lambda self, path: [path], raising=False
    )
    assert get(app, f"{ROOT}{sample}/dir/", JSON).json() == ["dir/"], (
        "a plugin's hook without pulpcore's"
    )


def test_plugin_entries_are_merged_into_pages_and_make_directories(app, sample, monkeypatch):
    monkeypatch.setattr(pagination, "PAGE_SIZE", 2)
    extra = {"": {"a", "dir/", "file.json", "z/"}, "z/": {"x"}}
    monkeypatch.setattr(
        FileDistribution, "content_handler_list_directory", lambda self, p: extra.get(p, set())
    )
    pages = all_pages(lambda url: get(app, url, JSON), f"{ROOT}{sample}/")
    assert [names(page) for page in pages] == [["a", "dir/"], ["file.json", "z/"]]
    assert pages[0]["entries"][0]["size"] is None
    assert pages[1]["entries"][0]["size"] == 13, "the published file's entry wins"
    assert names(get(app, f"{ROOT}{sample}/z/", JSON).json()) == ["x"]
    past = get(app, f"{ROOT}{sample}/z/?cursor={make_cursor('x')}", JSON)
    assert past.json()["entries"] == []
