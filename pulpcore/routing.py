"""Pulp's ASGI applications, for any ASGI server: `uvicorn pulpcore.routing:application`.

`application` serves the REST API and content in one process. `content_application` serves content
alone, for operators who scale it apart.
"""

import os
from functools import lru_cache

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.django_app.handler import create_api

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pulpcore.app.settings")
_django_application = create_api()

from django.conf import settings  # noqa: E402
from django.urls import Resolver404, resolve  # noqa: E402

from pulpcore.content_star.application import create_application  # noqa: E402
from pulpcore.content_star.django_app.header_limits import HeaderLimits  # noqa: E402
from pulpcore.content_star.middleware.conformance import Conformance  # noqa: E402
from pulpcore.content_star.middleware.errors import render  # noqa: E402
from pulpcore.content_star.middleware.internal_redirect import InternalRedirect  # noqa: E402
from pulpcore.content_star.middleware.normalize_path import refuse_dot_segments  # noqa: E402
from pulpcore.content_star.plugin_host.mounts import mounted  # noqa: E402
from pulpcore.content_star.responses.websockets import refuse  # noqa: E402

# A star, for the tab of a browser that shows a listing.
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="#f5a623" '
    'd="m16 2 4 10 10 1-8 7 3 10-9-6-9 6 3-10-8-7 10-1z"/></svg>'
)


class Router:
    """Sends content to the content app and everything else to Django."""

    def __init__(
        self,
        content: ASGIApp,
        django: ASGIApp,
        content_prefix: str,
        in_place: bool = False,
        root_redirect: str = "",
    ) -> None:
        """`content_prefix` begins and ends with a slash; without the latter it is content too.

        `in_place` serves the content that Django redirects to, instead of the redirect.
        `root_redirect` is the path that `/` redirects to, if Django has no view for it.
        """
        self.content = content
        self.root_redirect = root_redirect
        self.django = InternalRedirect(django, content, self.is_content) if in_place else django
        self.prefix = content_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The content app gets the lifespan: it starts and stops what the process needs."""
        if scope["type"] == "websocket":
            await refuse(scope, send)  # Django would raise
        elif scope["type"] == "lifespan" or self.is_content(scope):
            await self.content(scope, receive, send)
        else:
            await self._to_django(scope, receive, send)

    async def _to_django(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse dot segments: they would lead past rules of a server in front."""
        try:
            refuse_dot_segments(scope["path"])
        except HTTPException as error:
            app: ASGIApp = render(Request(scope), error)
        else:
            app = self._fallback(scope) or self.django
        await app(scope, receive, send)

    def _fallback(self, scope: Scope) -> ASGIApp | None:
        """Answer `/` and `/favicon.ico`, which browsers ask for, where Django has no view."""
        root_path = scope.get("root_path", "")
        path = scope["path"].removeprefix(root_path)
        if scope["method"] not in ("GET", "HEAD") or path not in ("/", "/favicon.ico"):
            return None
        if _is_view(path):
            return None
        if path == "/favicon.ico":
            headers = {"Cache-Control": "public, max-age=86400"}
            return Response(ICON, headers=headers, media_type="image/svg+xml")
        return RedirectResponse(root_path + self.root_redirect, 302) if self.root_redirect else None

    def is_content(self, scope: Scope) -> bool:
        """Tell whether the path of the URL is the content prefix, below it, or a plugin's."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return f"{path}/".startswith(self.prefix) or mounted(scope) is not None


@lru_cache(2)
def _is_view(path: str) -> bool:
    if getattr(settings, "WHITENOISE_ROOT", None):
        return True  # its files are served at the root, by Django's middleware
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
        in_place=settings.CONTENT_STAR_INTERNAL_REDIRECT,
        root_redirect=_root_redirect(),
    )
)

content_application = Conformance(create_application("content"))
