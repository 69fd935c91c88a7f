"""Render pages of directory listings as JSON, in the format of docs/listings.md."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from pulpcore.content_star.listings import pagination
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.html import link
from pulpcore.content_star.listings.negotiation import JSON_TYPE
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.text import text_response


class DistributionFacts(TypedDict):
    """A distribution of the index."""

    name: str
    type: str
    serves: str
    units: int | None
    labels: dict[str, str | None]
    guarded: bool
    changed: str


class Entry(TypedDict):
    """A file or directory of a listing; in the index, part of a base path."""

    name: str
    type: Literal["file", "directory"]
    href: str
    size: int | None
    modified: str | None
    distribution: NotRequired[DistributionFacts | None]


class Listing(TypedDict):
    """A page of a directory or of the index of distributions."""

    path: str
    entries: list[Entry]
    next: str | None


def json_listing(
    request: Request,
    entries: Sequence[DirectoryEntry],
    distributions: Mapping[str, DistributionFacts] | None = None,
) -> Response:
    """Return the first page of the sorted `entries`, with a link to the next if there are more.

    `distributions` are those of the index, by the name of the entry.
    """
    page = entries[: pagination.PAGE_SIZE]
    has_next = len(entries) > len(page)
    listed = [_as_json(entry) for entry in page]
    if distributions is not None:
        for entry, as_json in zip(page, listed, strict=True):
            as_json["distribution"] = distributions.get(entry.name)
    listing: Listing = {
        "path": decoded_path(request.scope),
        "entries": listed,
        "next": f"?{pagination.next_query(request, page[-1].name)}" if has_next else None,
    }
    body = json.dumps(listing, ensure_ascii=False, separators=(",", ":")).encode()
    return text_response(request, body, JSON_TYPE, may_compress=may_compress(request))


def may_compress(request: Request) -> bool:
    """Return whether the page reflects no query parameters, so that it can be compressed.

    `next` contains the query: compressed together with the names of a guarded directory, the
    length of the body would leak those (BREACH).
    """
    return not pagination.query_without_cursor(request)


def _as_json(entry: DirectoryEntry) -> Entry:
    return {
        "name": entry.name.removesuffix("/"),
        "type": "directory" if entry.name.endswith("/") else "file",
        "href": link(entry.name),
        "size": entry.size,
        "modified": rfc_3339(entry.modified) if entry.modified else None,
    }


def rfc_3339(moment: datetime) -> str:
    """Format in UTC and whole seconds, as in `Last-Modified` of the file."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
