"""Pages of directories for people: sorted, filtered and paged tables of entries."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pulpcore.content_star.listings.entries import DirectoryEntry, EntryCache
from pulpcore.content_star.listings.facts_query import query_without_facts
from pulpcore.content_star.listings.html import link, size_text
from pulpcore.content_star.listings.pagination import (
    PARAMETER,
    PageQuery,
    make_cursor,
    member_name,
    read_cursor,
)
from pulpcore.content_star.listings.site import page_headers, render_page
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.text import text_response

# Rows of a page: some 100 KB of HTML.
PAGE_ROWS = 500

# Entries of the largest directory that is sorted by size or date, or filtered: all are read for it.
MAX_SORTED = 20_000

# Characters of the longest filter.
MAX_FILTER_LENGTH = 200

# Entries of pages, and of sorted or filtered directories, that a process caches: some 20 MB.
CACHED_ENTRIES = 60_000

# Parameters of a page; others, such as the signature of a redirect guard, are passed on by links.
PARAMETERS = ("q", "sort", "order", PARAMETER, "list")

page_cache = EntryCache(CACHED_ENTRIES)

# Kinds of files by the last suffix of their names, which icons show.
_KINDS = {
    "package": "rpm deb whl gz xz bz2 zst zip tgz tar jar gem iso img apk egg 7z crate nupkg",
    "key": "asc sig sign key gpg pem crt sha256 sha512 md5",
    "metadata": "xml json yaml yml toml html in pom sqlite manifest cfg ini",
    "image": "png jpg jpeg gif svg webp ico",
}
_KIND_BY_SUFFIX = {suffix: kind for kind, text in _KINDS.items() for suffix in text.split()}


@dataclass(frozen=True)
class PageParameters:
    """Sort order, filter and cursor of a page."""

    sort: str
    order: str = "asc"
    q: str = ""
    after: str | None = None

    @property
    def is_descending(self) -> bool:
        """Whether the order is reversed."""
        return self.order == "desc"

    @property
    def reads_from_cursor(self) -> bool:
        """Whether entries are read from the cursor on: without filter, in the order of names."""
        return self.sort == "name" and not self.is_descending and not self.q


def page_parameters(request: Request, sorts: Sequence[str]) -> PageParameters:
    """Return the parameters of the query; the first of `sorts` is the default.

    Raises `HTTPException` 400 for a value that is not one of those.
    """
    query = request.query_params
    sort, order = query.get("sort", sorts[0]), query.get("order", "asc")
    if sort not in sorts:
        raise HTTPException(400, f"The query parameter 'sort' must be one of: {', '.join(sorts)}.")
    if order not in ("asc", "desc"):
        raise HTTPException(400, "The query parameter 'order' must be 'asc' or 'desc'.")
    q, cursor = query.get("q", "").strip(), query.get(PARAMETER)
    if len(q) > MAX_FILTER_LENGTH or "\0" in q:
        raise HTTPException(
            400,
            f"The query parameter 'q' is longer than {MAX_FILTER_LENGTH} characters, or has NUL.",
        )
    return PageParameters(sort, order, q, None if cursor is None else read_cursor(cursor))


def href(request: Request, **parameters: str) -> str:
    """Return a query with `parameters` in place of those of this page; the others stay."""
    query = query_without_facts(request.scope).removeprefix("?")
    kept = [part for part in query.split("&") if part and member_name(part) not in PARAMETERS]
    return "?" + "&".join([*kept, *filter(None, [urlencode(parameters)])])


def hidden_fields(request: Request) -> list[tuple[str, str]]:
    """Return the other members of the query, for a form."""
    query = request.scope["query_string"].decode("latin-1")
    members = parse_qsl(query, keep_blank_values=True)
    return [(name, value) for name, value in members if name not in PARAMETERS]


def columns(
    request: Request, page: PageParameters, names: dict[str, str], sortable: Iterable[str]
) -> list[dict[str, Any]]:
    """Return the heads of a table, by key, with links that sort by them or reverse the order."""
    listed = []
    for key, name in names.items():
        is_sorted = key == page.sort
        order = "desc" if is_sorted and not page.is_descending else "asc"
        query = {"sort": key, "order": order} | ({"q": page.q} if page.q else {})
        direction = "descending" if page.is_descending else "ascending"
        listed.append(
            {
                "key": key,
                "name": name,
                "href": href(request, **query) if key in sortable else "",
                "sorted": direction if is_sorted else "",
            }
        )
    return listed


def next_href(request: Request, page: PageParameters, last: str) -> str:
    """Return the query of the page after the cursor `last`."""
    query = {"q": page.q} if page.q else {}
    given = request.query_params
    query |= {name: given[name] for name in ("sort", "order") if name in given}
    return href(request, **query, **{PARAMETER: make_cursor(last)})


Read = Callable[[PageQuery], list[DirectoryEntry]]
"""Reads a range of the entries of a directory, in the order of names."""


def select_entries(
    page: PageParameters, read: Read
) -> tuple[list[DirectoryEntry], bool, int | None]:
    """Return the entries of a page, whether more follow, and how many there are, if known.

    Directories come first, except where entries in the order of names take several pages.

    Raises `HTTPException` 400 for an order or filter of a directory with over `MAX_SORTED` entries,
    or a cursor of no entry.
    """
    if page.reads_from_cursor:
        listed = read(PageQuery(page.after, PAGE_ROWS + 1))
        has_next = len(listed) > PAGE_ROWS
        if page.after is not None or has_next:
            return listed[:PAGE_ROWS], has_next, None
        return sorted(listed, key=_is_file), False, len(listed)
    everything = read(PageQuery(None, MAX_SORTED + 1))
    if len(everything) > MAX_SORTED:
        raise HTTPException(
            400,
            f"The directory has more than {MAX_SORTED:,} entries; larger ones are listed by name, "
            "without filter.",
        )
    wanted = page.q.casefold()
    matching = [entry for entry in everything if wanted in entry.name.casefold()]
    matching.sort(key=_SORT_KEYS[page.sort], reverse=page.is_descending)
    matching.sort(key=_is_file)
    start = 0
    if page.after is not None:
        names = [entry.name for entry in matching]
        if page.after not in names:
            raise HTTPException(400, f"The query parameter '{PARAMETER}' names no entry here.")
        start = names.index(page.after) + 1
    shown = matching[start : start + PAGE_ROWS]
    return shown, start + PAGE_ROWS < len(matching), len(matching)


def _is_file(entry: DirectoryEntry) -> bool:
    return not entry.name.endswith("/")


_SORT_KEYS: dict[str, Callable[[DirectoryEntry], Any]] = {
    "name": lambda entry: entry.name,
    "size": lambda entry: (entry.size or 0, entry.name),
    "date": lambda entry: (entry.modified.timestamp() if entry.modified else 0, entry.name),
}

SORTS = tuple(_SORT_KEYS)


def directory_page(
    request: Request,
    page: PageParameters,
    selected: tuple[Sequence[DirectoryEntry], bool, int | None],
    context: dict[str, Any],
) -> Response:
    """Return the page of the `selected` entries; `context` may have usage, recipes and a README."""
    entries, has_next, count = selected
    path = decoded_path(request.scope)
    names = {"name": "Name", "size": "Size", "date": "Added (UTC)"}
    context = {
        "title": path.rstrip("/").rpartition("/")[2] + "/",
        "page": page,
        "columns": columns(request, page, names, SORTS),
        "hidden": hidden_fields(request),
        "parent": page.after is None and not page.q,
        "rows": rows(entries),
        "summary": summary(len(entries), has_next, count, page.q),
        "first": href(request, **({"q": page.q} if page.q else {})),
        "all": href(request),
        "list": href(request, list=""),
        "next": next_href(request, page, entries[-1].name) if has_next else "",
        **context,
    }
    return page_response(request, render_page(request, "directory.html", context))


def page_response(request: Request, html: bytes, status: int = 200) -> Response:
    """Return the response of a page: not compressed if it may reflect the query (BREACH)."""
    may_compress = not request.scope["query_string"]
    response = text_response(request, html, "text/html", may_compress=may_compress)
    response.headers.update(page_headers())
    if status != 200:
        response.status_code = status
    return response


def summary(shown: int, has_next: bool, count: int | None, q: str) -> str:
    """Return how many entries are shown, in words."""
    what = f"match “{q}”" if q else "in this directory"
    if count is None:
        return f"{shown:,} entries on this page, more on the next." if has_next else "Last page."
    if count == 0:
        return f"No entries {what}."
    entries = "1 entry" if count == 1 else f"{count:,} entries"
    return f"{entries} {what}" + (f", {shown:,} on this page." if has_next else ".")


def rows(entries: Iterable[DirectoryEntry]) -> SafeString:
    """Return the rows of the table. Rendering them by a template takes several times as long."""
    return mark_safe("".join(map(_row, entries)))  # noqa: S308 - names are escaped


def _row(entry: DirectoryEntry) -> str:
    name, modified, size = entry
    exact = "" if size is None else f' title="{size:,} bytes"'
    date = modified.strftime("%Y-%m-%d %H:%M") if modified else ""
    target, text = escape(link(name)), escape(name)
    info = f'<a rel="nofollow" href="{target}?info" aria-label="About {text}">info</a>'
    return (
        f'<tr class="{kind_of(name)}"><td><a href="{target}">{text}</a></td>'
        f'<td class="size"{exact}>{"" if size is None else size_text(size)}</td>'
        f'<td class="date">{date}</td><td>{"" if name.endswith("/") else info}</td></tr>\n'
    )


def kind_of(name: str) -> str:
    """Return the kind of an entry, which its icon shows."""
    if name.endswith("/"):
        return "folder"
    return _KIND_BY_SUFFIX.get(name.rpartition(".")[2].lower(), "file")


def code(text: str) -> SafeString:
    """Return `text` as code."""
    return format_html('<code class="mono">{}</code>', text)
