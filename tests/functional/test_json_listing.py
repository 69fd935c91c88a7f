"""Directories as JSON, and what plugins answer to those who prefer it."""

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

from pulpcore.app.models import ContentArtifact, Distribution, PublishedArtifact
from pulpcore.content_star import content as content_module
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings import pagination as window
from pulpcore.content_star.listings import stream as listing_page
from pulpcore.content_star.listings.pagination import make_cursor
from pulpcore.content_star.resolve.paths import ContentPath
from tests.functional.test_paths import NAMES
from tests.support.asgi import get
from tests.support.listing_parser import parse_listing

JSON = {"Accept": "application/json"}
ROOT = "/pulp/content/"


@pytest.fixture(scope="module")
def publication(module_orm):
    """A publication whose files a test may replace with `publish_at`."""
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
    """Publish one and the same file at every one of `paths`, and nowhere else."""
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
    """The names of a JSON listing as the HTML listing has them."""
    slash = {"directory": "/", "file": ""}
    return [entry["name"] + slash[entry["type"]] for entry in listing["entries"]]


def walk(fetch, url: str) -> list[dict]:
    """All pages of a listing, found as a client finds them: by `next`."""
    pages, location = [], httpx.URL("http://pulp").join(url)
    while True:
        response = fetch(location.raw_path.decode())
        assert response.status_code == 200, response.text
        pages.append(response.json())
        if pages[-1]["next"] is None:
            return pages
        assert len(pages) < 10_000, "there is no end to it"
        location = location.join(pages[-1]["next"])


def all_names(pages: list[dict]) -> list[str]:
    return [name for page in pages for name in names(page)]


def test_the_form_of_a_listing(content, module_orm):
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


def test_the_date_of_an_entry_is_the_files_own(content, module_orm):
    version = module_orm.version({"a": b"a"})
    base = module_orm.distribution(from_publication=False, repository_version=version)
    (entry,) = content.get(f"{base}/", headers=JSON).json()["entries"]
    sent = parsedate_to_datetime(content.get(f"{base}/a").headers["Last-Modified"])
    assert datetime.fromisoformat(entry["modified"]) == sent


@pytest.mark.parametrize("from_publication", [True, False])
def test_files_of_any_name_list_link_and_download(content, module_orm, from_publication):
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


def test_the_pages_of_a_large_directory_are_the_html_listing(content, publication, replaceable):
    publish_at(publication, MANY)
    pages = walk(lambda url: content.get(_below(url), headers=JSON), f"{ROOT}{replaceable}/")
    assert [len(page["entries"]) for page in pages] == [1000, 1000, 600]
    html = content.get(f"{replaceable}/")
    assert all_names(pages) == list(parse_listing(html.text))
    assert all_names(pages) == sorted({_entry(path) for path in MANY})


def test_the_pages_of_a_large_repository_version_are_the_html_listing(content, module_orm):
    version = module_orm.version({"seed": b"seed!"})
    (seed,) = ContentArtifact.objects.filter(content__in=version.content)
    ContentArtifact.objects.bulk_create(
        ContentArtifact(content=seed.content, artifact=seed.artifact, relative_path=path)
        for path in MANY
    )
    base = module_orm.distribution(from_publication=False, repository_version=version)
    pages = walk(lambda url: content.get(_below(url), headers=JSON), f"{ROOT}{base}/")
    assert [len(page["entries"]) for page in pages] == [1000, 1000, 601]
    assert all_names(pages) == list(parse_listing(content.get(f"{base}/").text))


def _below(url: str) -> str:
    return url.removeprefix(ROOT)


def _entry(path: str) -> str:
    """The entry of a directory under which `path`, relative to it, is found."""
    name, slash, _ = path.partition("/")
    return name + slash


# What sorts around the slash and the case, or otherwise than by code point in some collation.
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
def test_walking_the_pages_is_the_sorted_set_of_names(
    app, publication, replaceable, rows, paths, added, size
):
    """With one row a query, names are found by skip scans."""
    publish_at(publication, paths)
    extra = {_entry(path) for path in added}
    with (
        patch.object(window, "PAGE_SIZE", size),
        patch.object(directory, "ROWS", rows),
        patch.object(directory, "entry_cache", directory.EntryCache(0)),
        patch.object(
            FileDistribution, "content_handler_list_directory", lambda self, path: extra, create=1
        ),
    ):
        pages = walk(lambda url: get(app, url, JSON), f"{ROOT}{replaceable}/")
    assert all_names(pages) == sorted({_entry(path) for path in paths} | extra)
    assert all(len(page["entries"]) == size for page in pages[:-1])
    assert pages[-1]["entries"]


# The database takes no base path with white space, dots for a segment, or segments of nothing.
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
def test_walking_base_paths_is_the_sorted_set_of_names(app, module_orm, bases, size):
    top = module_orm.unique()
    rows = [
        Distribution(name=f"{top}/{base}", base_path=f"{top}/{base}", pulp_type="file.file")
        for base in bases
    ]
    Distribution.objects.bulk_create(rows)
    try:
        with patch.object(window, "PAGE_SIZE", size):
            pages = walk(lambda url: get(app, url, JSON), f"{ROOT}{top}/")
        html = parse_listing(get(app, f"{ROOT}{top}/").text)
    finally:
        Distribution.objects.filter(base_path__startswith=f"{top}/").delete()
    assert all_names(pages) == sorted({f"{base.split('/')[0]}/" for base in bases})
    assert list(html) == all_names(pages)
    assert all(entry["modified"] is None for page in pages for entry in page["entries"])


def test_entries_that_come_and_go_between_pages_move_no_others(
    app, publication, replaceable, monkeypatch
):
    monkeypatch.setattr(window, "PAGE_SIZE", 2)
    publish_at(publication, ["b", "d", "f", "h"])
    first = get(app, f"{ROOT}{replaceable}/", JSON).json()
    assert names(first) == ["b", "d"]
    publish_at(publication, ["a", "c", "f", "g", "h"])
    second = get(app, f"{ROOT}{replaceable}/{first['next']}", JSON).json()
    assert names(second) == ["f", "g"]
    publish_at(publication, ["a"])
    third = get(app, f"{ROOT}{replaceable}/{second['next']}", JSON)
    assert third.status_code == 200, "the directory is there, and nothing is left of it"
    assert third.json()["entries"] == []
    assert third.json()["next"] is None


@contextmanager
def rows_read() -> Iterator[list[int]]:
    """Collect how many rows each query of this thread brings out of the database."""
    rows: list[int] = []

    def count(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        rows.append(context["cursor"].rowcount)
        return result

    with connection.execute_wrapper(count):
        yield rows


def ask(path: str, query: str = "", method: str = "GET", accept: str = "application/json"):
    """Make the response in this thread, as the door's threads do; return the rows of queries."""
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
        content_module.respond(Request(scope), ContentPath("default", path))
    return rows


@pytest.mark.parametrize("cursor", [None, "a", "f5"])
def test_a_page_reads_one_row_more_than_it_shows(publication, replaceable, monkeypatch, cursor):
    monkeypatch.setattr(window, "PAGE_SIZE", 10)
    monkeypatch.setattr(listing_page, "row_cache", listing_page.RowCache(0))
    directory.path_order()
    publish_at(publication, MANY)
    query = f"cursor={make_cursor(cursor)}" if cursor else ""
    rows = ask(f"{replaceable}/", query)
    assert max(rows) == 11
    assert len(rows) == len(ask(f"{replaceable}/", accept="text/html")) - 1, "no look for the index"
    assert max(ask(f"{replaceable}/", method="HEAD")) == 1


def test_a_page_of_base_paths_reads_one_row_more_than_it_shows(module_orm, monkeypatch):
    monkeypatch.setattr(window, "PAGE_SIZE", 10)
    top = module_orm.unique()
    bases = [f"{top}/{number}/{leaf}" for number in range(30) for leaf in "ab"]
    Distribution.objects.bulk_create(
        Distribution(name=base, base_path=base, pulp_type="file.file") for base in bases
    )
    try:
        assert max(ask(f"{top}/")) == 11
        assert max(ask(f"{top}/", f"cursor={make_cursor('5/')}")) == 4, "6/, 7/, 8/ and 9/"
        assert max(ask(f"{top}/", method="HEAD")) == 1
    finally:
        Distribution.objects.filter(base_path__startswith=f"{top}/").delete()


def test_names_sort_by_code_point_whatever_the_collation_of_the_database(
    module_orm, publication, replaceable
):
    """The database of the tests has no other collation to try: ask the planner how it sorts."""
    publish_at(publication, MANY)
    top = module_orm.distribution(f"{module_orm.unique()}/below").partition("/")[0]
    for path in (f"{replaceable}/", f"{top}/"):
        with CaptureQueriesContext(connection) as queries:
            ask(path)
        with connection.cursor() as database:
            database.execute("EXPLAIN VERBOSE " + queries[-1]["sql"])
            plan = [line for (line,) in database]
        # Others are by ids, for joins. Core's index has the order of code points here.
        assert directory.path_order().using == ""
        sorts = [line for line in plan if "Sort Key" in line and "_path" in line]
        assert sorts, plan
        assert all('COLLATE "C"' in line for line in sorts), plan


BAD_CURSORS = ["", "x", "A", "!", "é", "PmE=PmE", "%00", "PgA", "Pv8", "YWJj", "..%2f", "1000"]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_bad_cursors_are_refused_clearly(content, sample, method, cursor):
    for path in (f"{sample}/", f"{sample}/dir/", ""):
        response = content.request(method, f"{path}?cursor={cursor}", headers=JSON)
        assert response.status_code == 400
        assert method == "HEAD" or "cursor" in response.json()["detail"]
        assert content.request(method, f"{path}?cursor={cursor}").status_code == 200, "HTML"


def test_a_made_up_cursor_shows_nothing_that_is_not_listed_anyway(content, sample):
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
def test_what_clients_prefer_they_get_and_caches_are_told(content, sample, accept):
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
    assert "Vary" not in file.headers, "one file for all: caches need to keep it once only"
    assert "Content-Disposition" in file.headers


def test_an_index_page_that_did_not_change_still_varies(content, sample):
    tag = content.get(f"{sample}/dir/").headers["ETag"]
    response = content.get(f"{sample}/dir/", headers={"If-None-Match": tag})
    assert response.status_code == 304
    assert response.headers["Vary"] == "Accept"
    response = content.get(f"{sample}/dir/", headers={"If-None-Match": tag, **JSON})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["", "/", "/dir", "/dir/", "/file.json", "/nope", "/nope/"])
def test_head_is_get_without_a_body(content, sample, path):
    got = content.get(sample + path, headers=JSON)
    headed = content.head(sample + path, headers=JSON)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    # The last is known only once the list is made.
    ignored = {"date", "correlation-id", "content-length", "etag" * path.endswith("/")}
    if got.headers.get("ETag", "").startswith("W/") and not path:
        ignored.add("etag")
    assert {k: v for k, v in headed.headers.items() if k not in ignored} == {
        k: v for k, v in got.headers.items() if k not in ignored
    }


def test_a_missing_slash_is_redirected_with_its_query(content, sample):
    for path in ("", "/dir"):
        response = content.get(f"{sample}{path}?cursor=x&a=b", headers=JSON)
        assert response.status_code == 301
        assert response.headers["Location"] == f"{ROOT}{sample}{path}/?cursor=x&a=b"


def test_hidden_and_guarded_distributions_do_not_show(content, pulp, orm):
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
def test_guards_come_first(content, pulp, orm, method, path):
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


def test_the_signature_of_the_first_page_opens_the_next(app, pulp, orm, monkeypatch):
    from pulpcore.app.models import ContentRedirectContentGuard

    monkeypatch.setattr(window, "PAGE_SIZE", 2)
    publication = orm.publication(dict.fromkeys("abcde", b""))
    guard = ContentRedirectContentGuard(name=orm.unique())
    guard.save()
    try:
        base = orm.distribution(publication=publication, content_guard=guard)
        url = guard.preauthenticate_url(f"http://pulp{ROOT}{base}/")
        pages = walk(lambda url: get(app, url, JSON), url)
        assert [names(page) for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
        assert pages[1]["next"].count("cursor=") == 1
        assert get(app, f"{ROOT}{base}/?cursor={make_cursor('a')}", JSON).status_code == 403
    finally:
        orm.cleanup()
        guard.delete()


# What plugins answer


@pytest.fixture
def plugin(monkeypatch):
    """Give the file plugin a `content_handler_json`, as newer versions of plugins have."""

    def install(hook) -> None:
        monkeypatch.setattr(
            FileDistribution, "content_handler_json", lambda self, path: hook(path), raising=False
        )

    return install


@pytest.mark.parametrize("answer", [{"packages": ["é"]}, [], {}, [1, None]])
@pytest.mark.parametrize("path", ["/", "/dir/", "/file.json", "/virtual", "/dir/b"])
def test_the_json_of_a_plugin_comes_before_all_else(app, sample, plugin, path, answer):
    asked = []
    plugin(lambda path: asked.append(path) or answer)
    response = get(app, f"{ROOT}{sample}{path}", JSON)
    assert response.status_code == 200
    assert response.json() == answer
    assert asked == [path.removeprefix("/")]
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Vary"] == "Accept"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_who_does_not_prefer_json_is_not_given_it_and_caches_are_told(app, sample, plugin):
    asked = []
    plugin(asked.append)
    for path, says in (("/file.json", "file"), ("/", "Index of"), ("/dir/", "page")):
        response = get(app, f"{ROOT}{sample}{path}")
        assert says in response.text
        assert response.headers["Vary"].split(", ")[-1] == "Accept"
    assert asked == []


@pytest.mark.parametrize(
    ("own", "sent"), [("Cookie", "Cookie, Accept"), ("*", "*"), ("x, accept", "x, accept")]
)
def test_what_else_an_answer_varies_by_stays(app, sample, plugin, monkeypatch, own, sent):
    plugin(lambda path: None)
    monkeypatch.setattr(FileDistribution, "content_headers_for", lambda self, path: {"Vary": own})
    assert get(app, f"{ROOT}{sample}/file.json").headers["Vary"] == sent


def test_none_of_a_plugin_leaves_the_path_to_us(app, sample, plugin, monkeypatch):
    plugin(lambda path: None)
    assert get(app, f"{ROOT}{sample}/file.json", JSON).content == b'{"a": "file"}'
    listing = get(app, f"{ROOT}{sample}/dir/", JSON)
    assert names(listing.json()) == ["b", "index.html"]
    assert listing.headers["Vary"] == "Accept-Encoding, Accept"
    assert get(app, f"{ROOT}{sample}/nope", JSON).status_code == 404
    found = ContentArtifact.objects.filter(relative_path="dir/b").latest("pulp_created")
    monkeypatch.setattr(FileDistribution, "content_handler", lambda self, path: found)
    assert get(app, f"{ROOT}{sample}/virtual", JSON).content == b"bb", "content_handler is next"


def test_a_missing_slash_of_the_root_is_no_question_to_a_plugin(app, sample, plugin):
    plugin(lambda path: {"asked": path})
    assert get(app, f"{ROOT}{sample}", JSON).status_code == 301


def test_responses_of_aiohttp_are_sent_as_they_are(app, sample, plugin):
    plugin(lambda path: json_response({"a": 1}, status=203, headers={"X-Of": "the plugin"}))
    response = get(app, f"{ROOT}{sample}/", JSON)
    assert (response.status_code, response.json()) == (203, {"a": 1})
    assert response.headers["X-Of"] == "the plugin"
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("answer", [object(), {"a": {1}}, float("nan")])
def test_what_is_not_json_is_the_plugins_error(app, sample, plugin, caplog, answer):
    plugin(lambda path: answer)
    response = get(app, f"{ROOT}{sample}/", JSON)
    assert response.status_code == 500
    assert response.headers["Correlation-ID"] in response.json()["detail"]
    assert "JSON" in caplog.text


def test_a_guard_is_asked_before_a_plugin(app, orm, plugin):
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


def test_pulpcore_without_the_hook_is_served(app, sample, monkeypatch):
    monkeypatch.delattr(Distribution, "content_handler_json", raising=False)
    assert get(app, f"{ROOT}{sample}/file.json", JSON).content == b'{"a": "file"}'
    assert names(get(app, f"{ROOT}{sample}/", JSON).json()) == ["dir/", "file.json"]
    monkeypatch.setattr(
        FileDistribution, "content_handler_json", lambda self, path: [path], raising=False
    )
    assert get(app, f"{ROOT}{sample}/dir/", JSON).json() == ["dir/"], "a plugin made for both"


def test_entries_of_a_plugin_join_pages_and_make_directories(app, sample, monkeypatch):
    monkeypatch.setattr(window, "PAGE_SIZE", 2)
    extra = {"": {"a", "dir/", "file.json", "z/"}, "z/": {"x"}}
    monkeypatch.setattr(
        FileDistribution, "content_handler_list_directory", lambda self, p: extra.get(p, set())
    )
    pages = walk(lambda url: get(app, url, JSON), f"{ROOT}{sample}/")
    assert [names(page) for page in pages] == [["a", "dir/"], ["file.json", "z/"]]
    assert pages[0]["entries"][0]["size"] is None
    assert pages[1]["entries"][0]["size"] == 13, "what is really there is told in full"
    assert names(get(app, f"{ROOT}{sample}/z/", JSON).json()) == ["x"]
    past = get(app, f"{ROOT}{sample}/z/?cursor={make_cursor('x')}", JSON)
    assert past.json()["entries"] == []
