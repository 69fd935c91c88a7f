"""Pages of directories, files, distributions and errors for people, beside those for programs."""

import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from django.conf import settings

from pulpcore.app.models import (
    ContentArtifact,
    ContentRedirectContentGuard,
    RBACContentGuard,
    RemoteArtifact,
)
from pulpcore.content_star.listings import directory, distributions
from pulpcore.content_star.listings import page as pages
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.pagination import make_cursor
from tests.support.asgi import get
from tests.support.listing_parser import parse_listing

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PREFIX = "/pulp/content/"
NASTY = [
    '"><img src=x onerror=alert(1)>.txt',
    "a:b c&amp;.rpm",
    "‮gpj.exe",
    "🦊.tar.gz",
    "é" * 100,
    "%2e%2e",
]


FILES = {
    "README.md": b"# Hello <b>people</b>\n",
    "big.rpm": b"x" * 5000,
    "small.txt": b"1",
    "sub/inner.txt": b"12",
    **{f"nasty/{name}": name.encode() for name in NASTY},
}


@pytest.fixture
def setting() -> Iterator[Callable[[str, object], None]]:
    """Change settings; they are restored by value, which `monkeypatch` does not for Dynaconf's."""
    before: dict[str, object] = {}

    def change(name: str, value: object) -> None:
        before.setdefault(name, getattr(settings, name))
        setattr(settings, name, value)

    yield change
    for name, value in before.items():
        setattr(settings, name, value)


class Page(HTMLParser):
    """Elements of a page: links with their texts, and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._href: str | None = None
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "a":
            self._href = dict(attributes)["href"]
            self.links.setdefault(self._href, "")

    def handle_data(self, data):
        self.text += data
        if self._href is not None:
            self.links[self._href] += data

    def handle_endtag(self, tag):
        if tag == "a":
            self._href = None

    def names(self) -> list[str]:
        """Return the names in the table of files, in order."""
        rows = re.findall(r'<tr class="[a-z]+"><td><a href="[^"]*">([^<]*)</a>', self.rawdata_all)
        return [html.unescape(name) for name in rows if name != "../"]

    @property
    def above(self) -> str:
        """Target of the link of an error page."""
        found = re.search(r'<p>Go to <a href="([^"]*)"', self.rawdata_all)
        assert found
        return html.unescape(found[1])


def page_of(answer: httpx.Response) -> Page:
    page = Page(answer.text)
    page.rawdata_all = answer.text
    return page


@pytest.fixture(scope="module")
def base(module_orm) -> str:
    """A distribution with files of several kinds, sizes and names."""
    return module_orm.distribution(
        from_publication=False, repository_version=module_orm.version(FILES)
    )


@pytest.fixture(scope="module")
def many(module_orm) -> str:
    """A distribution with more files than a page has rows."""
    files = {f"{number:04}.txt": b"1" for number in range(pages.PAGE_ROWS + 7)}
    return module_orm.distribution(
        from_publication=False, repository_version=module_orm.version(files)
    )


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (BROWSER["Accept"], "page"),
        ("text/html", "page"),
        ("*/*", "list"),
        (None, "list"),
        ("application/vnd.pypi.simple.v1+json, text/html; q=0.01", "list"),  # pip
        ("text/html;q=0.5, */*;q=0.8", "list"),
        ("text/plain", "text"),
        ("application/json", "json"),
        ("text/html," + "a/b," * 400, "list"),
    ],
)
def test_form_of_directory_by_accept(content, base, accept, form):
    headers = {} if accept is None else {"Accept": accept}
    request = content.build_request("GET", f"{base}/", headers=headers)
    if accept is None:
        del request.headers["Accept"]
    answer = content.send(request)
    assert answer.status_code == 200
    assert "Accept" in answer.headers["Vary"]
    types = {"page": "text/html", "list": "text/html", "text": "text/plain"}
    assert answer.headers["Content-Type"].startswith(types.get(form, "application/json"))
    assert ("<table" in answer.text) == (form == "page")
    assert ("<pre>" in answer.text) == (form == "list")


def test_plain_text_lists_one_name_a_line(content, base):
    answer = content.get(f"{base}/", headers={"Accept": "text/plain"})
    assert answer.text == "README.md\nbig.rpm\nnasty/\nsmall.txt\nsub/\n"
    root = content.get("", headers={"Accept": "text/plain"})
    assert f"{base}/" in root.text.splitlines()


def test_text_of_index_has_no_characters_that_terminals_interpret(content, orm):
    top, name = orm.unique(), "a\x1b[31mb\u202ec"
    orm.distribution(f"{top}/{name}")
    answer = content.get(f"{top}/", headers={"Accept": "text/plain"})
    assert answer.text == f"{quote(name)}/\n"


def test_page_has_breadcrumbs_sizes_dates_and_links_in_order(content, base):
    answer = content.get(f"{base}/sub/", headers=BROWSER)
    page = page_of(answer)
    assert page.links[f"{PREFIX}{base}/"] == base
    assert page.links["../"] == "../"
    assert page.names() == ["inner.txt"]
    assert 'title="2 bytes"' in answer.text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", page.text)
    assert "Added (UTC)" in page.links.values()
    assert "1 entry in this directory" in page.text
    folders_first = page_of(content.get(f"{base}/", headers=BROWSER))
    assert folders_first.names() == ["nasty/", "sub/", "README.md", "big.rpm", "small.txt"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("sort=size", ["nasty/", "sub/", "small.txt", "README.md", "big.rpm"]),
        ("sort=size&order=desc", ["sub/", "nasty/", "big.rpm", "README.md", "small.txt"]),
        ("order=desc", ["sub/", "nasty/", "small.txt", "big.rpm", "README.md"]),
        ("q=SMALL", ["small.txt"]),
        ("q=nothing-like-it", []),
        ("sort=date", ["nasty/", "sub/", "README.md", "big.rpm", "small.txt"]),
    ],
)
def test_page_sort_order_and_filter(content, base, query, names):
    answer = content.get(f"{base}/?{query}", headers=BROWSER)
    assert answer.status_code == 200
    listed = page_of(answer).names()
    if "date" in query:
        listed, names = sorted(listed), sorted(names)
    assert listed == names


@pytest.mark.parametrize("order", ["", "order=desc", "sort=size", "q=.txt"])
def test_pages_of_directory_follow_each_other(content, many, order):
    answer = content.get(f"{many}/?{order}", headers=BROWSER)
    first = page_of(answer)
    assert len(first.names()) == pages.PAGE_ROWS
    (following,) = [
        attributes["href"]
        for tag, attributes in first.tags
        if tag == "a" and attributes.get("rel") == "next"
    ]
    second = page_of(content.get(f"{many}/{following}", headers=BROWSER))
    assert sorted(first.names() + second.names()) == [
        f"{number:04}.txt" for number in range(pages.PAGE_ROWS + 7)
    ]


@pytest.mark.parametrize(
    "query",
    [
        "sort=color",
        "order=up",
        "cursor=x",
        "q=" + "x" * 1000,
        "q=%00",
        "sort=size&cursor=Pm5v",
        "info",
        "checksum=sha256",
    ],
)
def test_invalid_query_of_directory_page_returns_400(content, base, query):
    answer = content.get(f"{base}/?{query}", headers=BROWSER)
    assert answer.status_code == 400
    assert "<h1>400 Bad Request</h1>" in answer.text
    again = content.get(f"{base}/{page_of(answer).above}", headers=BROWSER)
    assert again.status_code == 200 and "size" in again.text


def test_invalid_query_of_a_directory_that_does_not_exist_returns_404(content, base):
    for method in ("GET", "HEAD"):
        answer = content.request(method, f"{base}/missing/?sort=color", headers=BROWSER)
        assert answer.status_code == 404


@pytest.mark.parametrize("path", ["", "sub/"])
def test_invalid_query_links_to_the_directory_with_the_rest_of_the_query(content, base, path):
    answer = content.get(f"{base}/{path}?token=a%26b&sort=color&q=x&info", headers=BROWSER)
    assert answer.status_code == 400
    assert page_of(answer).above == "?token=a%26b"


def test_query_of_ten_thousand_characters_is_refused(content, base):
    assert content.get(f"{base}/?q={'x' * 10_000}", headers=BROWSER).status_code in (400, 414)


@pytest.mark.parametrize("query", ["sort=color", "order=up", "cursor=x", "cursor=Pm5v"])
def test_invalid_query_of_distributions_page_returns_400(content, base, query):
    answer = content.get(f"?{query}", headers=BROWSER)
    assert answer.status_code == 400
    assert page_of(answer).above == "?"


@pytest.mark.parametrize(
    ("sort", "position"),
    [
        ("path", "[" * 5000),
        ("path", '["\\ud800", "a"]'),
        ("path", '["a", "\\udfff"]'),
        ("name", '["\\u0000", "a"]'),
        ("type", '["a", "\\u0000"]'),
        ("date", '["2026-01-01T00:00:00", 1]'),
        ("date", "[1, 2]"),
        ("date", '["0001-01-01T00:00:00+23:59", "a"]'),
        ("date", '["9999-12-31T23:59:59-23:59", "a"]'),
        ("date", '["yesterday", "a"]'),
        ("path", '["a", "b", "c"]'),
    ],
)
def test_invalid_position_in_cursor_of_distributions_returns_400(content, sort, position):
    query = f"?sort={sort}&cursor={make_cursor(position)}"
    for method in ("GET", "HEAD"):
        assert content.request(method, query, headers=BROWSER).status_code == 400


def test_names_are_escaped(content, base):
    answer = content.get(f"{base}/nasty/", headers=BROWSER)
    page = page_of(answer)
    assert sorted(page.names()) == sorted(NASTY)
    assert not [attributes for tag, attributes in page.tags if tag == "img"]
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
    for href in page.links:
        if href.startswith((".", "/", "?", "#", "http")) and not href.startswith("./"):
            continue
        url = httpx.URL(f"{content.base_url}{base}/nasty/").join(href)
        assert content.get(str(url)).status_code == 200, href


@pytest.mark.parametrize(
    "path", ["", "{base}/", "{base}/nasty/", "{base}/nothing", "{base}/big.rpm?info"]
)
def test_page_policy_runs_no_script_but_its_own(content, base, path):
    answer = content.get(path.format(base=base), headers=BROWSER)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy
    assert "unsafe" not in policy
    scripts = [attributes for tag, attributes in page_of(answer).tags if tag == "script"]
    assert [f"script-src '{each['integrity']}'" in policy for each in scripts] == [True]
    assert "<style" not in answer.text
    assert 'style="' not in answer.text


def test_style_and_script_are_static_files_that_are_cached_for_ever(instance, content, base):
    answer = content.get(f"{base}/", headers=BROWSER)
    rows = re.search(r"<tbody>.*</tbody>", answer.text, re.S)
    assert len(answer.text) - len(rows[0]) < 30_000
    for url in re.findall(r'(?:href|src)="(/assets/content_star/[^"]*)"', answer.text):
        static = httpx.get(f"{instance.url}{url}")
        assert static.status_code == 200
        assert "immutable" in static.headers["Cache-Control"]
        assert hashlib.sha256(static.content).hexdigest()[:12] in url


def test_readme_is_shown_as_plain_text(content, base):
    page = content.get(f"{base}/", headers=BROWSER).text
    assert "# Hello &lt;b&gt;people&lt;/b&gt;" in page
    assert "Hello" not in content.get(f"{base}/").text


def test_first_page_is_read_once(many, app, monkeypatch):
    """It is answered from memory after the first time."""
    first = get(app, f"{PREFIX}{many}/", BROWSER)
    read: list[object] = []
    monkeypatch.setattr(directory, "entries", lambda *arguments: read.append(arguments))
    assert get(app, f"{PREFIX}{many}/", BROWSER).text == first.text
    assert not read


def test_how_to_use_names_the_urls_of_the_distribution(content, base):
    page = content.get(f"{base}/", headers=BROWSER).text
    assert "How to use" in page
    assert f"wget --recursive --no-parent --no-host-directories {content.base_url}{base}/" in page
    assert "How to use" not in content.get(f"{base}/sub/", headers=BROWSER).text


def test_file_info_page(content, base):
    answer = content.get(f"{base}/big.rpm?info", headers=BROWSER)
    assert answer.status_code == 200
    digest = hashlib.sha256(b"x" * 5000).hexdigest()
    for text in ("5,000 bytes", digest, "file.file", "version 1", "saved", "sha256sum -c"):
        assert text in answer.text, text
    facts = content.get(f"{base}/big.rpm?info", headers={"Accept": "application/json"}).json()
    assert (facts["size"], facts["digests"]["sha256"]) == (5000, digest)
    assert content.get(f"{base}/big.rpm").content == b"x" * 5000


def test_file_info_has_media_type_as_sent_and_time_in_utc(content, orm):
    base = orm.distribution(
        from_publication=False, repository_version=orm.version({"a.strange": b"12"})
    )
    sent = content.get(f"{base}/a.strange").headers
    modified = parsedate_to_datetime(sent["Last-Modified"])
    facts = content.get(f"{base}/a.strange?info", headers={"Accept": "application/json"}).json()
    assert facts["type"] == sent["Content-Type"] == "application/octet-stream"
    assert facts["added"] == modified.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (facts["content"], facts["storage"]) == ("file.file", "saved")
    page = content.get(f"{base}/a.strange?info", headers=BROWSER).text
    for label, value in {
        "Size": "2 bytes",
        "Media type": sent["Content-Type"],
        "Added": modified.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "Content type": "file.file",
        "Storage": "saved",
    }.items():
        assert f'<th scope="row">{label}</th><td>{value}</td>' in page


@pytest.mark.parametrize("accept", ["*/*", "text/plain"])
def test_file_info_is_text_for_programs(content, odd, accept):
    url = f"{odd}/{quote(NASTY[2])}"
    answer = content.get(f"{url}?info", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "Accept" in answer.headers["Vary"]
    lines = answer.text.splitlines()
    assert lines[:2] == ["Name:  gpj.exe", f"URL: {content.base_url}{url}"]
    assert {"Content type: file.file", "Storage: saved"} < set(lines)
    assert f"sha256: {hashlib.sha256(NASTY[2].encode()).hexdigest()}" in lines


def test_file_info_as_text_keeps_spaces_of_a_name(content, orm):
    base = orm.distribution(
        from_publication=False, repository_version=orm.version({"a  b.txt": b"1"})
    )
    assert content.get(f"{base}/a  b.txt?info").text.startswith("Name: a  b.txt\n")


def test_file_info_as_json_has_the_name_of_the_file_and_of_its_package(app, base, monkeypatch):
    from pulp_file.app.models import FileContent

    monkeypatch.setattr(FileContent, "name", "big", raising=False)
    path = f"{settings.CONTENT_PATH_PREFIX}{base}/big.rpm?info"
    facts = get(app, path, {"Accept": "application/json"}).json()
    assert (facts["name"], facts["package"]) == ("big.rpm", "big")


@pytest.mark.parametrize("times", [1, 2])
def test_file_checksum_is_read_by_sha256sum(content, base, tmp_path, times):
    (tmp_path / "big.rpm").write_bytes(content.get(f"{base}/big.rpm").content)
    line = content.get(f"{base}/big.rpm?checksum=sha256").text
    result = subprocess.run(
        ["sha256sum", "-c"], input=line, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    as_json = {"Accept": "application/json"}
    answer = content.get(f"{base}/big.rpm?checksum=sha256", headers=as_json)
    assert answer.json()["digest"] == line.split()[0]


ODD_NAMES = ["-", "-rf", "--", "back\\slash\\n", "new\nline", 'it\'s "$(false)" `x` !', *NASTY[:4]]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_commands_of_file_page_fetch_and_verify_it(content, odd, tmp_path, shell):
    for number, name in enumerate(ODD_NAMES):
        answer = content.get(f"{odd}/{quote(name)}?info", headers=BROWSER)
        (commands,) = re.findall(r'data-copy="commands">(.*?)</pre>', answer.text, re.DOTALL)
        folder = tmp_path / str(number)
        folder.mkdir()
        run = subprocess.run(
            [shell, "-c", html.unescape(commands)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (run.returncode, run.stdout.count(": OK")) == (0, 1), run
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: name.encode()}


@pytest.fixture(scope="module")
def odd(module_orm) -> str:
    """A distribution of files with names that shells and programs interpret."""
    version = module_orm.version({name: name.encode() for name in ODD_NAMES})
    return module_orm.distribution(from_publication=False, repository_version=version)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("big.rpm?checksum=crc32", 400),
        ("big.rpm?checksum=", 400),
        ("big.rpm?checksum", 400),
        ("big.rpm?checksum&token=%20", 400),
        ("gone.rpm?info", 404),
        ("gone.rpm?checksum=sha256", 404),
        ("sub/?info", 400),
    ],
)
def test_facts_of_a_path_without_a_file_return_4xx(content, base, path, status):
    for headers in (BROWSER, {}, {"Accept": "application/json"}):
        assert content.get(f"{base}/{path}", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://u:secret@h.example/a.txt?token=secret", " (h.example)"),
        ("http://u:secret@[::1/a.txt", ""),
        ("file:///secret/a.txt", ""),
        ("secret", ""),
    ],
)
def test_file_on_demand_names_its_remote_without_credentials(content, orm, url, host):
    version = orm.version({"a.txt": b"12345"})
    base = orm.distribution(from_publication=False, repository_version=version)
    file = ContentArtifact.objects.get(content__in=version.content)
    from pulp_file.app.models import FileRemote

    remote = orm._save(
        FileRemote(name=orm.unique(), url="http://u:secret@h.example/PULP_MANIFEST", username="u")
    )
    RemoteArtifact.objects.create(
        content_artifact=file,
        remote=remote,
        url=url,
        sha256="1" * 64,
        size=5,
    )
    artifact = file.artifact
    ContentArtifact.objects.filter(pk=file.pk).update(artifact=None)
    try:
        answer = content.get(f"{base}/a.txt?info", headers=BROWSER)
    finally:
        ContentArtifact.objects.filter(pk=file.pk).update(artifact=artifact)
    assert f"<td>remote {remote.name}{host}</td>" in answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize("query", ["info", "checksum=sha256", "sort=size", "q=x", "list"])
def test_guard_answers_before_any_page(content, orm, query):
    guard = orm.guard(RBACContentGuard)
    version = orm.version({"secret-name.txt": b"1"})
    base = orm.distribution(from_publication=False, repository_version=version, content_guard=guard)
    for path in ("", "secret-name.txt", "gone.txt"):
        answer = content.get(f"{base}/{path}?{query}", headers=BROWSER)
        assert answer.status_code in (401, 403)
        assert hashlib.sha256(b"1").hexdigest() not in answer.text
        assert path or "secret-name" not in answer.text


def test_errors_are_pages_for_browsers_and_text_for_programs(content, base):
    page = content.get(f"{base}/sub/nothing", headers=BROWSER)
    assert page.status_code == 404
    assert page_of(page).links[f"{PREFIX}{base}/sub/"]
    plain = content.get(f"{base}/sub/nothing")
    assert plain.headers["Content-Type"].startswith("text/plain")
    as_json = content.get(f"{base}/sub/nothing", headers={"Accept": "application/json"})
    assert "detail" in as_json.json()


def test_distributions_page_shows_the_content_of_each(content, orm):
    version = orm.version({"a": b"1"})
    prefix = orm.unique()
    orm.distribution(
        f"{prefix}/9/x",
        from_publication=False,
        repository_version=version,
        pulp_labels={"team": "blue"},
    )
    hidden = orm.distribution(f"{prefix}/8", repository=version.repository, hidden=True)
    guard = orm.guard(RBACContentGuard)
    orm.distribution(f"{prefix}/7", repository=version.repository, content_guard=guard)
    answer = content.get(f"{prefix}/", headers=BROWSER)
    page = page_of(answer)
    assert page.links[f"{PREFIX}{prefix}/9/x/"] == "x/"
    assert page.links[f"{PREFIX}{prefix}/9/"] == "9"
    assert f"version 1 of {version.repository.name}, 1 content unit<" in answer.text
    assert f"no publication of {version.repository.name} yet" in page.text
    assert "Changed (UTC)" in page.links.values()
    assert "team: blue" in page.text
    assert "guarded" in page.text
    assert hidden not in page.text
    found = page_of(content.get(f"?q={prefix.upper()}/9", headers=BROWSER))
    assert f"{PREFIX}{prefix}/9/x/" in found.links
    assert f"{PREFIX}{prefix}/7/" not in found.links


@pytest.mark.parametrize("sort", ["path", "name", "type", "date"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_distributions_are_paged_by_keyset_with_one_query(app, orm, monkeypatch, sort, order):
    monkeypatch.setattr(distributions, "PAGE_ROWS", 2)
    prefix = orm.unique()
    for number in range(5):
        orm.distribution(f"{prefix}/{number}")
    query, paths = f"?sort={sort}&order={order}", []
    while query:
        answer = get(app, f"{PREFIX}{prefix}/{query}", BROWSER)
        page = page_of(answer)
        paths += [link for link in page.links if re.fullmatch(rf"{PREFIX}{prefix}/\d/", link)]
        query = next(
            (a["href"] for tag, a in page.tags if tag == "a" and a.get("rel") == "next"), ""
        )
    assert sorted(paths) == [f"{PREFIX}{prefix}/{number}/" for number in range(5)]
    if sort == "path":
        assert paths == sorted(paths, reverse=order == "desc")


def test_classic_setting_gives_browsers_the_list(app, base, setting):
    setting("CONTENT_STAR_INDEX", "classic")
    answer = get(app, f"{PREFIX}{base}/", BROWSER)
    assert "<table" not in answer.text
    assert "README.md" in parse_listing(answer.text)


def test_site_has_the_operators_title_logo_and_links(app, base, setting):
    setting("CONTENT_STAR_TITLE", "Packages & more")
    setting("CONTENT_STAR_LINKS", {"Help": "/help"})
    setting("CONTENT_STAR_LOGO", "/logo.svg")
    page = page_of(get(app, f"{PREFIX}{base}/", BROWSER))
    assert ("img", {"src": "/logo.svg", "alt": "Packages & more"}) in page.tags
    assert page.links["/help"] == "Help"


@pytest.mark.skipif(not shutil.which("wget"), reason="wget is not installed")
def test_wget_mirrors_each_file_once_and_no_sorted_copies(content, base, tmp_path):
    subprocess.run(
        ["wget", "-q", "-r", "-np", "-nH", f"{content.base_url}{base}/sub/"],
        cwd=tmp_path,
        check=False,
        timeout=300,
    )
    fetched = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(Path(path).name for path in fetched) == ["index.html", "inner.txt"]


def fetched_by(command: list[str], folder: Path) -> dict[str, bytes]:
    """Run a mirroring program, and return the files in the folder by path."""
    home = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "LC_ALL": "C.UTF-8"}
    run = subprocess.run(command, env=home, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.skipif(not shutil.which("lftp"), reason="lftp is not installed")
def test_lftp_mirrors_all_files(content, base, tmp_path):
    url, folder = f"{content.base_url}{base}/", tmp_path / "mirror"
    command = ["lftp", "-c", f"set cmd:fail-exit yes; mirror --verbose {url} {folder}"]
    assert fetched_by(command, folder) == FILES


@pytest.mark.skipif(not shutil.which("rclone"), reason="rclone is not installed")
def test_rclone_copies_all_files(content, base, tmp_path):
    url, folder = f"{content.base_url}{base}/", tmp_path / "mirror"
    assert fetched_by(["rclone", "copy", "--http-url", url, ":http:", str(folder)], folder) == FILES


def test_links_and_form_have_no_encoded_name_of_a_parameter_but_empty_members(content, base):
    page = page_of(content.get(f"{base}/?%73ort=size&%71=a&token=&%6Frder=asc", headers=BROWSER))
    queries = [href for href in page.links if href.startswith("?")]
    assert queries
    assert not [href for href in queries if "%" in href]
    hidden = [each for tag, each in page.tags if tag == "input" and each.get("type") == "hidden"]
    assert {(each["name"], each["value"]) for each in hidden} == {("sort", "size"), ("token", "")}


@pytest.mark.parametrize("query", ["%69nfo", "check%73um=sha256", "%63hecksum=sha256"])
def test_encoded_query_of_a_file_is_that_of_its_decoded_name(content, base, query):
    for _ in range(2):  # the second time, the file is in memory
        assert content.get(f"{base}/small.txt").content == b"1"
        assert content.get(f"{base}/small.txt?{query}").content != b"1"
        assert content.get(f"{base}/small.txt?a=%69nfo").content == b"1"


def test_signed_url_of_file_page_links_to_the_signed_file(content, orm):
    guard = orm.guard(ContentRedirectContentGuard)
    version = orm.version({"a b.txt": b"signed"})
    base = orm.distribution(from_publication=False, repository_version=version, content_guard=guard)
    url = guard.preauthenticate_url(f"{content.base_url}{base}/a%20b.txt")
    answer = content.get(f"{url}&info", headers=BROWSER)
    (link,) = [
        attributes["href"] for tag, attributes in page_of(answer).tags if "download" in attributes
    ]
    assert content.get(str(content.base_url.join(link))).content == b"signed"
    (commands,) = re.findall(r'data-copy="commands">(.*?)</pre>', answer.text, re.DOTALL)
    assert f"curl -fLo 'a b.txt' '{url}'" in html.unescape(commands)


def test_links_keep_the_rest_of_the_query(content, base):
    page = page_of(content.get(f"{base}/?token=abc&sort=size", headers=BROWSER))
    sorts = [href for href in page.links if "sort=" in href]
    assert sorts
    assert all(href.startswith("?token=abc&") for href in sorts)


def test_huge_directory_is_not_sorted(monkeypatch):
    monkeypatch.setattr(pages, "MAX_SORTED", 3)
    entries = [DirectoryEntry(str(number)) for number in range(5)]
    with pytest.raises(Exception, match="more than 3 entries"):
        pages.select_entries(pages.PageParameters("size"), lambda query: entries[: query.limit])


def test_json_has_no_page(content, base):
    answer = content.get(f"{base}/?sort=size", headers={"Accept": "application/json"})
    assert list(json.loads(answer.text)) == ["path", "entries", "next"]
