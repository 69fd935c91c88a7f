"""Responses of the document and its documentation."""

from functools import cache

from django.template.loader import render_to_string
from django.utils.safestring import mark_safe
from starlette.requests import Request
from starlette.responses import Response

from pulpcore.content_star.listings.site import script_integrity, static_url
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.content_star.responses.text import text_response

# The viewer of Pulp's own API documentation, ReDoc, as drf-spectacular's authors package it.
SCRIPTS = (
    "drf_spectacular_sidecar/redoc/bundles/redoc.standalone.js",
    "content_star/docs.js",
)

# Hash of an empty style element: ReDoc makes some, and adds their rules by script.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"


def document_response(request: Request, *, body: bytes, media_type: str) -> Response:
    """Return the response of the document in one of its forms: 200, 304 or 412."""
    response = text_response(request, body, media_type)
    response.headers["Cache-Control"] = "no-cache"
    return response


def docs_response(request: Request, *, body: bytes, media_type: str) -> Response:
    """Return the response of the documentation: 200, 304 or 412."""
    response = document_response(request, body=body, media_type=media_type)
    response.headers.update(docs_headers())
    return response


def docs_page(document: bytes) -> bytes:
    """Return the page with the documentation of a document in JSON, which it contains."""
    # No markup of a plugin ends the element.
    text = document.decode().replace("<", "\\u003c")
    context = {
        "document": mark_safe(text),  # noqa: S308
        "style": static_url("content_star/docs.css"),
        "scripts": [(static_url(path), script_integrity(path)) for path in SCRIPTS],
    }
    return render_to_string("content_star/docs.html", context).encode()


@cache
def docs_headers() -> dict[str, str]:
    """Return the security headers of the documentation.

    It runs two scripts, known by their hashes, and fetches nothing: the page contains the document.
    The sandbox has an opaque origin, so that even a script of a plugin's text could not read from
    the API.
    """
    hashes = " ".join(f"'{script_integrity(path)}'" for path in SCRIPTS)
    policy = (
        "sandbox allow-scripts; default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; img-src 'self' data:; style-src 'self' {_EMPTY_STYLE}; "
        f"script-src {hashes}"
    )
    return {**SECURITY_HEADERS, "content-security-policy": policy}
