"""Directory listings as pages."""

from datetime import UTC, datetime

from pulpcore.content_star.directory import Entry
from pulpcore.content_star.html_listing import html_listing
from tests.listing import parse_listing

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def html(*entries: Entry, path: str = "/x/", is_root: bool = False) -> str:
    return html_listing(path, entries, is_root=is_root).body.decode()


def test_entries_are_sorted_and_told_with_date_and_size():
    lines = parse_listing(html(Entry("b", NOON, 2_500_000), Entry("a/", NOON), Entry("B", None, 0)))
    assert list(lines) == ["B", "a/", "b"]
    assert lines["b"] == ("b", "22-Nov-2026 12:00", "2.5 MB")
    assert lines["a/"] == ("a/", "22-Nov-2026 12:00", "")
    assert lines["B"] == ("B", "", "0 Bytes")


def test_columns_line_up_whatever_the_name():
    rows = html(Entry("a", NOON, 1), Entry("<&>", NOON, 1), Entry("é" * 120, NOON, 1)).splitlines()
    texts = [row.split("</a>")[1] for row in rows if "22-Nov" in row]
    names = sorted(["a", "<&>", "é" * 120])
    widths = [len(name) + len(text) for name, text in zip(names, texts, strict=True)]
    assert widths[0] == widths[1]
    assert texts[2].startswith(" 22-Nov")


def test_names_and_path_cannot_act():
    page = html(Entry('"><script>alert(1)</script>'), path="/<script>alert(2)</script>/")
    assert "<script>" not in page
    assert "alert(2)" in page


def test_links_are_relative_and_encoded():
    page = html(Entry("a:b"), Entry("50%"), Entry("a?b#c/"), Entry("/"))
    for href in ("./a%3Ab", "./50%25", "./a%3Fb%23c/", ".//"):
        assert f'href="{href}"' in page


def test_only_the_root_has_no_parent():
    assert 'href="../"' in html(Entry("a"))
    assert 'href="../"' not in html(Entry("a"), is_root=True)
