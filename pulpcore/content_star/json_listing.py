"""Directory listings as JSON, page by page; docs/listings.md describes the form to clients."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from pulpcore.content_star import window
from pulpcore.content_star.directory import Entry
from pulpcore.content_star.html_listing import link
from pulpcore.content_star.locate import decoded_path
from pulpcore.content_star.responses.headers import SECURITY_HEADERS


def json_listing(request: Request, entries: Sequence[Entry]) -> JSONResponse:
    """List what of the sorted `entries` fits on a page; link to the next one if more follow."""
    page = entries[: window.PAGE_SIZE]
    has_next = len(entries) > len(page)
    listing = {
        "path": decoded_path(request.scope),
        "entries": [_as_json(entry) for entry in page],
        "next": f"?{window.next_query(request, page[-1].name)}" if has_next else None,
    }
    return JSONResponse(listing, headers=dict(SECURITY_HEADERS))


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name.removesuffix("/"),
        "type": "directory" if entry.name.endswith("/") else "file",
        "href": link(entry.name),
        "size": entry.size,
        "modified": entry.modified and _rfc_3339(entry.modified),
    }


def _rfc_3339(moment: datetime) -> str:
    """In UTC and whole seconds, as `Last-Modified` of the file has it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
