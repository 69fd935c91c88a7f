"""Pulp's ASGI applications, for any ASGI server: `uvicorn pulpcore.routing:application`.

`application` serves the REST API and content in one process. `content_application` serves content
only, for deployments that scale it separately.
"""

import os
from functools import lru_cache
from importlib import import_module

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.memory import no_garbage_collection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pulpcore.app.settings")
with no_garbage_collection():
    # First: Dynaconf inspects the stack, which takes longer the more modules are imported.
    import_module(os.environ["DJANGO_SETTINGS_MODULE"])

    from pulpcore.content_star.app.setting_values import require_valid_settings

    require_valid_settings()

    from pulpcore.content_star.django_app.handler import create_api

    _django_application = create_api()

    from pulpcore.content_star.application import create_application

from django.conf import settings
from django.urls import Resolver404, resolve

from pulpcore.content_star.django_app.header_limits import HeaderLimits
from pulpcore.content_star.middleware.conformance import Conformance
from pulpcore.content_star.middleware.errors import render
from pulpcore.content_star.middleware.internal_redirect import InternalRedirect
from pulpcore.content_star.middleware.normalize_path import refuse_dot_segments
from pulpcore.content_star.plugin_host.mounts import mounted
from pulpcore.content_star.responses.immediate import ImmediateResponse, immediate_response
from pulpcore.content_star.responses.websockets import refuse

# A star.
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="#f5a623" '
    'd="m16 2 4 10 10 1-8 7 3 10-9-6-9 6 3-10-8-7 10-1z"/></svg>'
)


class Router:
    """ASGI router: sends content paths to the content app and all others to Django."""

    def __init__(
        self,
        content: ASGIApp,
        django: ASGIApp,
        content_prefix: str,
        internal_redirect: bool = False,
        root_redirect: str = "",
    ) -> None:
        """`content_prefix` begins and ends with a slash; without the latter it is content too.

        With `internal_redirect`, Django's redirects to content are replaced by the content.
        `root_redirect` is the path that `/` redirects to if Django has no view for it.
        """
        self.content = content
        self.root_redirect = root_redirect
        self.django = (
            InternalRedirect(django, content, self.is_content) if internal_redirect else django
        )
        self.prefix = content_prefix

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        """Return the response if it is in memory, which only content is."""
        return immediate_response(self.content, scope) if self.is_content(scope) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request; the content app also handles the lifespan, of all resources."""
        if scope["type"] == "websocket":
            await refuse(scope, send)  # Django raises an exception
        elif scope["type"] == "lifespan" or self.is_content(scope):
            await self.content(scope, receive, send)
        else:
            await self._respond_outside_content(scope, receive, send)

    async def _respond_outside_content(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to Django, without dot segments: they would bypass rules of a proxy."""
        try:
            refuse_dot_segments(scope["path"])
        except HTTPException as error:
            app: ASGIApp = render(Request(scope), error)
        else:
            app = self._root_or_favicon(scope) or self.django
        await app(scope, receive, send)

    def _root_or_favicon(self, scope: Scope) -> ASGIApp | None:
        """Return the response for `/` or `/favicon.ico`, or None if Django has a view for it."""
        root_path = scope.get("root_path", "")
        path = scope["path"].removeprefix(root_path)
        if scope["method"] not in ("GET", "HEAD") or path not in ("/", "/favicon.ico"):
            return None
        if _has_view(path):
            return None
        if path == "/favicon.ico":
            headers = {"Cache-Control": "public, max-age=86400"}
            return Response(FAVICON, headers=headers, media_type="image/svg+xml")
        return RedirectResponse(root_path + self.root_redirect, 302) if self.root_redirect else None

    def is_content(self, scope: Scope) -> bool:
        """Return whether the path is the content prefix, below it, or below a plugin's mount."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return f"{path}/".startswith(self.prefix) or mounted(scope) is not None


@lru_cache(2)
def _has_view(path: str) -> bool:
    if getattr(settings, "WHITENOISE_ROOT", None):
        return True  # WhiteNoise, in Django's middleware, serves its files at the root
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


def _root_redirect() -> str:
    if not settings.CONTENT_STAR_REDIRECT_ROOT:
        return ""
    prefix: str = settings.CONTENT_PATH_PREFIX
    return f"{prefix}default/" if settings.DOMAIN_ENABLED else prefix


application = Conformance(
    Router(
        content=create_application("api", "content"),
        django=HeaderLimits(_django_application),
        content_prefix=settings.CONTENT_PATH_PREFIX,
        internal_redirect=settings.CONTENT_STAR_INTERNAL_REDIRECT,
        root_redirect=_root_redirect(),
    )
)

content_application = Conformance(create_application("content"))
