"""Responses of the document and its documentation."""

from starlette.requests import Request
from starlette.responses import Response

from pulpcore.content_star.responses.text import text_response


def document_response(request: Request, *, body: bytes, media_type: str) -> Response:
    """Return the response of the document in one of its forms: 200, 304 or 412."""
    response = text_response(request, body, media_type)
    response.headers["Cache-Control"] = "no-cache"
    return response
