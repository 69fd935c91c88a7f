"""Responses of directory listings, as HTML or JSON by content negotiation."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.html import html_listing
from pulpcore.content_star.listings.json import json_listing, may_compress
from pulpcore.content_star.listings.negotiation import JSON_TYPE, Form, preferred_form
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
        names = "".join(f"{entry.line}\n" for entry in entries)
        return text_response(request, names.encode(), "text/plain", may_compress=False)
    html = html_listing(decoded_path(request.scope), entries, is_root=is_root, usage=usage)
    return text_response(request, html.encode(), "text/html")


def head_for(request: Request) -> Response:
    """Return the response to HEAD of a listing, without reading its entries (pulpcore issue 3774).

    It omits Content-Length and ETag, which depend on the entries (RFC 9110 section 9.3.2).
    """
    form = preferred_form(request)
    headers = text_headers(request.scope, _is_compressed(request, form))
    if form == "page":
        headers |= page_headers()
    types = {"json": JSON_TYPE, "text": "text/plain"}
    response = Response(headers=headers, media_type=types.get(form, "text/html"))
    del response.headers["Content-Length"]
    return response


def _is_compressed(request: Request, form: Form) -> bool:
    """Return whether the response to GET is compressed for clients that accept it."""
    match form:
        case "json":
            return may_compress(request)
        case "page":
            return not request.scope["query_string"]
    return form == "list"
