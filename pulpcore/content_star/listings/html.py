"""Render directory listings as HTML, in the style of web servers' autoindex pages."""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from html import escape
from urllib.parse import quote

from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from jinja2.filters import do_filesizeformat

from pulpcore.content_star.listings.entries import DirectoryEntry

# Characters of the column of names, as upstream.
NAME_WIDTH = 100

DATE_FORMAT = "%d-%b-%Y %H:%M"

# Placeholder for the rows in the rendered template; no path contains NUL.
_ROWS = "\0"

# Names that need neither percent-encoding nor escaping, as nearly all.
_PLAIN = re.compile(r"[\w.~-][\w.~/-]*", re.ASCII)


def html_listing(
    path: str, entries: Iterable[DirectoryEntry], *, is_root: bool = False, usage: str = ""
) -> str:
    """Return the HTML page of `entries` below `path`, the decoded path of the URL.

    With `is_root` it has no link to a parent. `usage` is shown above the entries: escaped and
    preformatted, or as markup if it is a `SafeString`.
    """
    head, tail = frame(path, is_root=is_root, usage=usage)
    return head + rows(sorted(entries, key=lambda entry: entry.name)) + tail


def frame(path: str, *, is_root: bool = False, usage: str = "") -> tuple[str, str]:
    """Return the HTML before and after the rows; `usage` as in `html_listing`."""
    if usage and not isinstance(usage, SafeString):
        usage = format_html("<pre>{}</pre>", usage)
    html = render_to_string(
        "content_star/listing.html",
        {"path": path, "rows": _ROWS, "is_root": is_root, "usage": usage},
    )
    head, _, tail = html.partition(_ROWS)
    return head, tail


def rows(entries: Iterable[DirectoryEntry]) -> str:
    """Return the HTML of `entries`. Rendering them by the template takes five times as long."""
    return "".join(map(_row, entries))


def link(name: str) -> str:
    """Return the percent-encoded relative reference to the entry `name` (RFC 3986 section 4.2).

    It begins with `./` if the first segment contains a colon, which would end a scheme (pulpcore
    issue 6955), or is empty.
    """
    segment = name.partition("/")[0]
    return quote(name) if segment and ":" not in segment else f"./{quote(name)}"


def _row(entry: DirectoryEntry) -> str:
    name, modified, size = entry
    padding = " " * max(1, NAME_WIDTH - len(name))
    details = f"{padding}{_date(modified)}  {'' if size is None else size_text(size)}".rstrip()
    if _PLAIN.fullmatch(name):
        return f'<a href="{name}">{name}</a>{details}\n'
    return f'<a href="{escape(link(name))}">{escape(name)}</a>{details}\n'


@lru_cache(4096)
def _date(modified: datetime | None) -> str:
    return modified.strftime(DATE_FORMAT) if modified else ""


@lru_cache(4096)
def size_text(size: int) -> str:
    """Return a size in bytes in words, such as `1.2 kB`."""
    return do_filesizeformat(size)
