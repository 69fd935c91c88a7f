"""HTML listings of directories."""

from datetime import UTC, datetime
from urllib.parse import quote, urljoin

from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.html import html_listing, link
from tests.support.listing_parser import parse_listing

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def html(*entries: DirectoryEntry, path: str = "/x/", is_root: bool = False) -> str:
    return html_listing(path, entries, is_root=is_root)


def test_listing_has_sorted_entries_with_date_and_size():
    lines = parse_listing(
        html(
            DirectoryEntry("b", NOON, 2_500_000),
            DirectoryEntry("a/", NOON),
            DirectoryEntry("B", None, 0),
        )
    )
    assert list(lines) == ["B", "a/", "b"]
    assert lines["b"] == ("b", "22-Nov-2026 12:00", "2.5 MB")
    assert lines["a/"] == ("a/", "22-Nov-2026 12:00", "")
    assert lines["B"] == ("B", "", "0 Bytes")


def test_listing_columns_align_for_any_name():
    rows = html(
        DirectoryEntry("a", NOON, 1),
        DirectoryEntry("<&>", NOON, 1),
        DirectoryEntry("é" * 120, NOON, 1),
    ).splitlines()
    texts = [row.split("</a>")[1] for row in rows if "22-Nov" in row]
    names = sorted(["a", "<&>", "é" * 120])
    widths = [len(name) + len(text) for name, text in zip(names, texts, strict=True)]
    assert widths[0] == widths[1]
    assert texts[2].startswith(" 22-Nov")


def test_listing_escapes_names_and_path():
    page = html(DirectoryEntry('"><script>alert(1)</script>'), path="/<script>alert(2)</script>/")
    assert "<script>" not in page
    assert "alert(2)" in page


def test_listing_links_are_relative_and_encoded():
    names = {
        "plain.txt": "plain.txt",
        "50%": "50%25",
        "a?b#c/": "a%3Fb%23c/",
        "é <&>": "%C3%A9%20%3C%26%3E",
        "-": "-",
        "a b/c:d": "a%20b/c%3Ad",
    }
    with_dot = {"a:b": "./a%3Ab", "javascript:x/": "./javascript%3Ax/", "/": ".//", "//x": ".///x"}
    for name, href in (names | with_dot).items():
        assert f'href="{href}"' in html(DirectoryEntry(name))
        assert link(name) == href
        if href[:3] != ".//":  # Python's own way with empty segments is not that of RFC 3986
            assert urljoin("http://h/p/", href) == f"http://h/p/{quote(name)}"


def test_listing_of_the_root_has_no_parent_link():
    assert 'href="../"' in html(DirectoryEntry("a"))
    assert 'href="../"' not in html(DirectoryEntry("a"), is_root=True)
