"""Redirects within the content app."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse

from pulpcore.content_star.resolve.paths import decoded_path


def with_slash(request: Request) -> RedirectResponse:
    """Redirect to the URL of `request` with a slash added to its path, its query kept."""
    return moved(request, f"{decoded_path(request.scope)}/")


def moved(request: Request, path: str) -> RedirectResponse:
    """Redirect for good to a decoded `path` of this server, the query of `request` kept."""
    location = quote(path, safe="/:@!$&'()*+,;=~")
    if query := request.scope["query_string"]:
        location += "?" + query.decode("latin-1")
    return RedirectResponse(location, status_code=301)
