"""Directory listings as HTML, in the look that web servers have always had."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from jinja2.filters import do_filesizeformat
from starlette.responses import HTMLResponse, Response

from pulpcore.content_star.directory import Entry
from pulpcore.content_star.negotiation import JSON_TYPE
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

# Characters of the widest column, that of the names; as upstream.
NAME_WIDTH = 100

DATE_FORMAT = "%d-%b-%Y %H:%M"


@dataclass(frozen=True)
class Row:
    """An entry as the template shows it."""

    name: str
    href: str
    details: str


def listing(
    path: str, entries: Iterable[Entry], *, is_root: bool = False, usage: str = ""
) -> HTMLResponse:
    """List `entries` below `path`, the decoded path of the URL.

    The root of the content app shows no link to its parent. `usage` is shown above them: escaped
    and preformatted, or as markup if it is a `SafeString`.
    """
    if usage and not isinstance(usage, SafeString):
        usage = format_html("<pre>{}</pre>", usage)
    rows = [_row(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    html = render_to_string(
        "content_star/listing.html",
        {"path": path, "rows": rows, "is_root": is_root, "usage": usage},
    )
    return HTMLResponse(html, headers=dict(SECURITY_HEADERS))


def head_of_listing(*, is_json: bool = False) -> Response:
    """Answer HEAD where GET would list: the list is not made just to be counted (issue 3774)."""
    form = JSON_TYPE if is_json else "text/html"
    response = Response(headers=dict(SECURITY_HEADERS), media_type=form)
    del response.headers["Content-Length"]
    return response


def link(name: str) -> str:
    """Return the relative, percent-encoded reference to the entry `name` of a listing."""
    # "./" keeps a colon in the first segment from being read as a scheme (pulpcore issue 6955).
    return f"./{quote(name)}"


def _row(entry: Entry) -> Row:
    date = entry.modified.strftime(DATE_FORMAT) if entry.modified else ""
    size = "" if entry.size is None else do_filesizeformat(entry.size)
    padding = " " * max(1, NAME_WIDTH - len(entry.name))
    return Row(entry.name, link(entry.name), f"{padding}{date}  {size}".rstrip())
