"""Paths: unusual file names and base paths, dot segments, and malformed URLs and headers."""

import socket
from urllib.parse import quote

import httpx
import pytest

from tests.support.listing_parser import parse_listing
from tests.support.raw_client import get_unchanged

NAMES = [
    "plain.txt",
    "per%cent %41.txt",
    "ha#sh.txt",
    "quest?ion=1&x.txt",
    "co:lon.txt",
    "two  spaces .txt",
    "quotes\"and'.txt",
    "<script>alert(1)<",
    "back\\slash.txt",
    "ünïcödé-日本語-🎁.txt",
    "{{ braces }}{% x %}.txt",
    "semi;colon,comma+plus.txt",
    "..dots..txt",
    "-dash",
    "tab\tand\nnewline.txt",
]
BASE_PATHS = [
    "per%cent%41",
    "co:lon:",
    "quotes\"and'",
    "<b>",
    "ünïcödé",
    "a+b&c=d;e,f",
    "back\\slash",
]


def test_file_names_with_special_characters_are_listed_and_served(content, orm):
    files = {f"dir/{name}": name.encode() for name in NAMES}
    base = orm.distribution(from_publication=False, repository_version=orm.version(files))
    listing = content.get(f"{base}/dir/")
    assert "<script>" not in listing.text
    lines = parse_listing(listing.text)
    assert list(lines) == sorted(NAMES)
    for name, line in lines.items():
        assert line.href == name
        response = content.get(f"{base}/dir/{quote(name)}")
        assert response.content == name.encode(), name
        assert "\n" not in response.headers["Content-Disposition"]


def test_listing_links_resolve_to_the_files(content, orm):
    files = {f"{name}/{name}": name.encode() for name in NAMES}
    base = orm.distribution(from_publication=False, repository_version=orm.version(files))
    root = content.get(f"{base}/")
    for directory in _links(root):
        below = content.get(directory)
        assert below.status_code == 200, directory
        (link,) = _links(below)
        assert content.get(link).status_code == 200, link


@pytest.mark.parametrize("name", BASE_PATHS)
def test_base_paths_with_special_characters_are_listed_and_served(content, orm, name):
    base = orm.distribution(
        f"{orm.unique()}/{name}", publication=orm.publication({"a/b.txt": b"b"})
    )
    top = base.split("/")[0]
    (link,) = _links(content.get(f"{top}/"))
    assert list(parse_listing(content.get(f"{top}/").text)) == [f"{name}/"]
    assert parse_listing(content.get(link).text).keys() == {"a/"}
    assert content.get(f"{quote(base)}/a/b.txt").content == b"b"
    redirect = content.get(quote(base))
    assert redirect.status_code == 301
    assert content.get(httpx.URL(link).join(redirect.headers["Location"])).status_code == 200


def _links(listing: httpx.Response) -> list[httpx.URL]:
    """Resolve each `href` against the URL of the page, as a browser does."""
    from html import unescape
    from re import findall

    hrefs = findall(r'href="(?!\.\./")([^"]*)"', listing.text)
    return [listing.url.join(unescape(href)) for href in hrefs]


@pytest.fixture(scope="module")
def raw(instance):
    """Return a function that sends a request target unchanged; HTTP clients normalize it."""

    def send(
        target: bytes, *headers: bytes, method: bytes = b"GET", with_head: bool = False
    ) -> tuple[int, bytes] | tuple[int, bytes, bytes]:
        address = (instance.address.reachable_host, instance.address.port)
        with socket.create_connection(address, timeout=300) as connection:
            close = (
                () if any(h.startswith(b"Connection") for h in headers) else (b"Connection: close",)
            )
            lines = [method + b" " + target + b" HTTP/1.1", b"Host: pulp", *close]
            connection.sendall(b"\r\n".join([*lines, *headers, b"", b""]))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        return (status, body, head) if with_head else (status, body)

    return send


@pytest.fixture(scope="module")
def base(instance):
    """The base path of a distribution with one file, `a.txt`."""
    from tests.support.orm import Orm

    orm = Orm()
    yield orm.distribution(
        publication=orm.publication({"a.txt": b"0123456789", "dir/b.txt": b"in a directory"})
    )
    orm.cleanup()


TRAVERSALS = [
    "%s/../../../../../../etc/passwd",
    "%s/..%%2f..%%2f..%%2fetc%%2fpasswd",
    "%s/%%2e%%2e/%%2e%%2e/etc/passwd",
    "../../../etc/passwd",
    "..%%2f..%%2fetc/passwd",
    "%%2fetc%%2fpasswd",
    "//etc/passwd",
    "%s/./b.txt",
    "%s/a.txt/",
    "%s/a.txt/.",
    "%s/a.txt%%20",
    "%s/A.TXT",
    "./%s/b.txt",
    "%s/x/../../a.txt",
    "%s/~root/",
    "%s/a.txt;v=1",
    "%s/a.txt\\",
]


@pytest.mark.parametrize("traversal", TRAVERSALS)
def test_path_traversal_returns_400_or_404(raw, base, traversal):
    target = "/pulp/content/" + (traversal % base if "%s" in traversal else traversal % ())
    status, body = raw(target.encode())
    assert status in (400, 404), body
    assert b"root:" not in body


SPELLINGS = [
    "{base}/dir/b.txt",
    "{base}//dir/b.txt",
    "{base}/dir//b.txt",
    "{base}///dir////b.txt",
    "/{base}/dir/b.txt",
    "{base}%2Fdir%2Fb%2Etxt",
    "{base}/dir%2F/b.txt",
    "{base}/./dir/b.txt",
    "{base}/dir/./b.txt",
    "./{base}/dir/b.txt",
    "{base}/%2e/dir/%2E/b.txt",
    "{base}/dir/../dir/b.txt",
    "{base}/x/%2e%2E/dir/b.txt",
    "x/../{base}/dir/b.txt",
    "{base}/dir/x//../b.txt",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_dot_segments_and_repeated_slashes_are_normalized_to_the_file(raw, base, spelling):
    target = f"/pulp/content/{spelling.format(base=base)}".encode()
    assert raw(target) == (200, b"in a directory")
    assert raw(target, b"Range: bytes=3-")[0] == 206
    assert raw(target, method=b"HEAD") == (200, b"")


@pytest.mark.parametrize(
    "spelling", ["{base}/dir/", "{base}//dir//", "{base}/./dir/.", "{base}/dir/x/.."]
)
def test_dot_segments_and_repeated_slashes_are_normalized_to_the_directory(raw, base, spelling):
    status, body = raw(f"/pulp/content/{spelling.format(base=base)}".encode())
    assert (status, b"b.txt" in body) == (200, True)


def test_missing_slash_redirects_to_the_normalized_path(raw, base):
    for spelling in ("{base}//dir?a=b", "{base}/./dir?a=b"):
        target = f"/pulp/content/{spelling.format(base=base)}".encode()
        status, body, head = raw(target, with_head=True)
        assert (status, body) == (301, b"")
        assert f"location: /pulp/content/{base}/dir/?a=b".encode() in head.lower()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/pulp/content/../content/", 400),
        (b"/pulp/content/a/../../content/", 400),
        (b"/pulp/content/%2e%2e/api/v3/status/", 400),
        (b"/pulp/content/a%2F../b", 400),
        (b"/pulp/api/v3/status/%2e%2e/%2e%2e/content/", 400),
        (b"/pulp/api/v3/status/../status/", 400),
        (b"/pulp/api/v3/status/./", 400),
        (b"/pulp/api/v3/x%2f..%2fstatus/", 400),
        (b"/pulp/./content/", 400),
        (b"/pulp/api/v3/status/", 200),
        (b"/pulp/content/./livez", 200),
        (b"/pulp/content//livez", 200),
        (b"/pulp/content/x/../readyz", 200),
        (b"//pulp/content/livez", 404),
        (b"/pulp//content/livez", 404),
        (b"/pulp/content/?" + b"a=b&" * 2000, 200),
        (b"/pulp/content/?" + b"a=b&" * 3000, 414),
    ],
)
def test_dot_segments_above_the_content_prefix_return_400(raw, target, status):
    assert raw(target)[0] == status


def test_dot_segments_above_a_domain_return_400(domains, base):
    for path, status in (
        (f"default/{base}/./a.txt", 200),
        (f"default/x/../{base}//a.txt", 200),
        (f"./default/{base}/a.txt", 200),
        (f"default/../default/{base}/a.txt", 400),
        (f"other/../default/{base}/a.txt", 400),
        (f"default/x/../../default/{base}/a.txt", 400),
        (f"default/%2e%2e/default/{base}/a.txt", 400),
        ("default/..", 400),
    ):
        assert get_unchanged(domains.url, f"/pulp/content/{path}")[0] == status, path


def test_base_path_of_65_segments_is_served(content, orm):
    deep = "/".join([orm.unique(), *"abcdefgh" * 8])
    orm.distribution(deep, publication=orm.publication({"a.txt": b"deep"}))
    for _ in range(2):
        assert content.get(f"{deep}/a.txt").content == b"deep"
    assert content.get(f"{deep}/b.txt").status_code == 404
    assert content.get(f"{deep}x/a.txt").status_code == 404
    assert "a.txt" in content.get(f"{deep}/").text


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/pulp/content/%00", 400),
        (b"/pulp/content/a%00b/", 400),
        (b"/pulp/content/%ff%fe", 400),
        (b"/pulp/content/%c3%28", 400),
        (b"/pulp/content/%ed%a0%80", 400),  # a surrogate, which UTF-8 cannot encode
        (b"/pulp/content/\xff", 400),
        (b"/pulp/content/" + b"a" * 9000, 414),
        (b"/pulp/content/" + b"a/" * 4500, 414),
        (b"/pulp/content/" + b"a/" * 4000, 404),
        (b"/pulp/content/a" + b"/" * 2700, 404),
        (b"/pulp/content/" + b"a" * 8000, 404),
        (b"/pulp/content/%", 404),
        (b"/pulp/content/%zz", 404),
        (b"/pulp/content/%2", 404),
        (b"/pulp/content", 301),
        (b"/pulp/contentx", 404),
        (b"/pulp/content/" + "é".encode(), 400),
    ],
)
def test_malformed_path_returns_an_error_status(raw, target, status):
    assert raw(target)[0] == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Range: bytes=0-4", 206),
        (b"Range: bytes=-3", 206),
        (b"Range: bytes=0-1,4-5", 206),
        (b"Range: items=0-4", 200),
        (b"Range: bytes=9-0", 416),
        (b"Range: bytes=10-", 416),
        (b"Range: bytes=x-y", 416),
        (b"Range: bytes=-", 416),
        (b"Range: bytes=" + b"9" * 4000 + b"-", 416),
        (b"Range: \xff\xfe", 200),
        (b"If-None-Match: *", 304),
        (b'If-None-Match: "', 200),
        (b"If-None-Match: \xff", 200),
        (b"If-Match: nonsense", 412),
        (b"If-Match: *", 200),
        (b"If-Modified-Since: yesterday", 200),
        (b"If-Unmodified-Since: \x80", 200),
        (b"If-Range: nonsense", 200),
        (b'Cookie: =;=;;\xff;a="', 200),
        (b"Cookie: sessionid[]={}; @@@=1", 200),
        (b"Accept: ;q=x,,/,*", 200),
        (b"Accept: " + b"application/json," * 5_000, 200),
        (b"If-None-Match: " + b'"a",' * 25_000, 200),
        (b"Correlation-ID: " + b"a" * 32 + b"-" * 100_000, 200),
        (b"Correlation-ID: \xff\xff", 200),
        (b"Authorization: Basic !!!", 200),
        (b"X-Forwarded-For: nonsense", 200),
    ],
)
def test_malformed_headers_are_ignored_or_refused(raw, base, header, status):
    assert raw(f"/pulp/content/{base}/a.txt".encode(), header)[0] == status


def test_guard_denies_malformed_cookies_and_credentials(raw, pulp, orm):
    guard = pulp.create("contentguards/core/rbac/", name=orm.unique())
    base = pulp.distribute(content_guard=guard["pulp_href"])
    target = f"/pulp/content/{base}/a.txt".encode()
    assert raw(target, b"Cookie: =;=;;\xff")[0] == 401
    for header in (b"Authorization: Basic !!!", b"Authorization: \xff"):
        assert raw(target, header)[0] == 403


@pytest.mark.parametrize("path", ["/pulp/content/", "/pulp/api/v3/status/", "/"])
def test_websocket_upgrade_returns_501(raw, path):
    upgrade = (
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
    )
    assert raw(path.encode(), *upgrade)[0] == 501
