"""Listings in the form that a client prefers."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp

from pulpcore.content_star.directory import Entry
from pulpcore.content_star.html_listing import head_of_listing, html_listing
from pulpcore.content_star.json_listing import json_listing
from pulpcore.content_star.locate import decoded_path
from pulpcore.content_star.negotiation import prefers_json


def listing_for(
    request: Request, entries: Sequence[Entry], *, is_root: bool = False, usage: str = ""
) -> ASGIApp:
    """List the sorted `entries` at the URL of `request`, as HTML or as a page of JSON."""
    if prefers_json(request):
        return json_listing(request, entries)
    return html_listing(decoded_path(request.scope), entries, is_root=is_root, usage=usage)


def head_for(request: Request) -> ASGIApp:
    """Answer HEAD where GET would list: the list is not made just to be counted (issue 3774)."""
    return head_of_listing(is_json=prefers_json(request))
