"""Permanent redirects within the content app."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse

from pulpcore.content_star.resolve.paths import decoded_path


def redirect_with_slash(request: Request) -> RedirectResponse:
    """Return a redirect to the URL of `request` with a slash appended to its path."""
    return permanent_redirect(request, f"{decoded_path(request.scope)}/")


def permanent_redirect(request: Request, path: str) -> RedirectResponse:
    """Return a 301 redirect to the decoded `path`, with the query string of `request`."""
    location = quote(path, safe="/:@!$&'()*+,;=~")
    if query := request.scope["query_string"]:
        location += "?" + query.decode("latin-1")
    return RedirectResponse(location, status_code=301)
