"""Frame of all pages for people: site, breadcrumbs, style and script, security headers."""

import hashlib
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.template.loader import render_to_string
from starlette.requests import Request

from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.headers import SECURITY_HEADERS, is_host

SCRIPT = "content_star/page.js"

# Each has a whole path: a page with those of the deepest path a URL may have is of 16 MB.
MAX_BREADCRUMBS = 20

# Packages with static files, by the first folder of their paths.
_PACKAGES = {
    "content_star": "pulpcore.content_star.app",
    "drf_spectacular_sidecar": "drf_spectacular_sidecar",
}


@cache
def _digest(path: str) -> bytes:
    package = files(_PACKAGES[path.partition("/")[0]])
    return hashlib.sha256(package.joinpath("static", *path.split("/")).read_bytes()).digest()


def static_url(path: str) -> str:
    """Return the URL of a static file of these pages, with a hash of its content."""
    return f"{settings.STATIC_URL}{path}?v={_digest(path).hex()[:12]}"


def script_integrity(path: str) -> str:
    """Return the hash of a script, as in `integrity` and Content-Security-Policy."""
    return f"sha256-{b64encode(_digest(path)).decode()}"


@cache
def page_headers() -> dict[str, str]:
    """Return the security headers of pages.

    They run no script but their own, known by its hash: files of this host are those of users. The
    sandbox has an opaque origin, so that even a script that got in could not read from the API.
    """
    policy = (
        "sandbox allow-downloads allow-forms allow-scripts; default-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'; img-src 'self' data:; style-src 'self'; "
        f"script-src '{script_integrity(SCRIPT)}'"
    )
    return {**SECURITY_HEADERS, "content-security-policy": policy}


def origin(request: Request) -> str:
    """Return the origin of external URLs: `CONTENT_ORIGIN`, or that of the request.

    `X-Forwarded-Host` goes before `Host` if Django's `USE_X_FORWARDED_HOST` says that a proxy sets
    it; its first host is the one that the client used. One that is not valid is ignored.

    The host may have characters that a shell interprets (RFC 3986 section 3.2.2): these are
    encoded, since users copy commands with the origin, and a cache may have got it from another
    client.
    """
    host = request.url.netloc
    if settings.USE_X_FORWARDED_HOST:
        forwarded = request.headers.get("X-Forwarded-Host", "").partition(",")[0].strip()
        if is_host(forwarded.encode("latin-1")):
            host = forwarded
    return (settings.CONTENT_ORIGIN or f"{request.url.scheme}://{quote(host, '[]:%')}").rstrip("/")


def host_of(url: str) -> str:
    """Return host and port of an external URL; `urlsplit` refuses some that clients may send."""
    return url.partition("://")[2].partition("/")[0]


def start_path(request: Request) -> str:
    """Return the path of the index of distributions, of the domain if domains are enabled."""
    prefix: str = request.scope.get("root_path", "") + settings.CONTENT_PATH_PREFIX
    if settings.DOMAIN_ENABLED:
        domain = decoded_path(request.scope).removeprefix(prefix).partition("/")[0]
        prefix += f"{domain}/" if domain else ""
    return prefix


def breadcrumbs(request: Request, to: str | None = None) -> list[tuple[str, str]]:
    """Return names and encoded paths of the directories from the index to the path `to`.

    By default, to the path of the request. Of a deeper path than `MAX_BREADCRUMBS`, those in the
    middle are left out.
    """
    path = start_path(request)
    crumbs = [("Content", quote(path))]
    to = decoded_path(request.scope) if to is None else to
    segments = [each for each in to.removeprefix(path).split("/") if each]
    hidden = max(0, len(segments) - MAX_BREADCRUMBS)
    if hidden:
        path += f"{'/'.join(segments[:hidden])}/"
        crumbs.append(("\N{HORIZONTAL ELLIPSIS}", quote(path)))
    for segment in segments[hidden:]:
        path += f"{segment}/"
        crumbs.append((segment, quote(path)))
    return crumbs


def render_page(request: Request, template: str, context: dict[str, Any]) -> bytes:
    """Render a template of `content_star/` in the frame; `context` has at least `title`."""
    frame: dict[str, Any] = {
        "site": settings.CONTENT_STAR_TITLE,
        "logo": settings.CONTENT_STAR_LOGO,
        "links": list(settings.CONTENT_STAR_LINKS.items()),
        "style": static_url("content_star/page.css"),
        "script": static_url(SCRIPT),
        "script_integrity": script_integrity(SCRIPT),
    }
    if "crumbs" not in context:
        frame |= {"start": quote(start_path(request)), "crumbs": breadcrumbs(request)}
    return render_to_string(f"content_star/{template}", frame | context).encode()
