"""Responses of directory listings, as HTML or JSON by content negotiation."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.html import html_listing
from pulpcore.content_star.listings.json import json_listing, may_compress
from pulpcore.content_star.listings.negotiation import JSON_TYPE, preferred_form, prefers_json
from pulpcore.content_star.listings.site import page_headers
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.text import text_headers, text_response


def listing_for(
    request: Request, entries: Sequence[DirectoryEntry], *, is_root: bool = False, usage: str = ""
) -> ASGIApp:
    """Return the listing of the sorted `entries`, as HTML or as a page of JSON."""
    form = preferred_form(request)
    if form == "json":
        return json_listing(request, entries)
    if form == "text":
        names = "".join(f"{entry.name}\n" for entry in entries)
        return text_response(request, names.encode(), "text/plain")
    html = html_listing(decoded_path(request.scope), entries, is_root=is_root, usage=usage)
    return text_response(request, html.encode(), "text/html")


def head_for(request: Request) -> ASGIApp:
    """Return the response to HEAD of a listing, without reading its entries (pulpcore issue 3774).

    It omits Content-Length and ETag, which depend on the entries (RFC 9110 section 9.3.2).
    """
    is_json = prefers_json(request)
    headers = text_headers(request.scope, not is_json or may_compress(request))
    if preferred_form(request) == "page":
        headers |= page_headers()
    types = {"json": JSON_TYPE, "text": "text/plain"}
    media_type = types.get(preferred_form(request), "text/html")
    response = Response(headers=headers, media_type=media_type)
    del response.headers["Content-Length"]
    return response
