"""Pulp's ASGI applications, for any ASGI server: `uvicorn pulpcore.routing:application`.

`application` serves the REST API and content in one process. `content_application` serves content
alone, for operators who scale it apart.
"""

import os

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.api import create_api

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pulpcore.app.settings")
_django_application = create_api()

from django.conf import settings  # noqa: E402

from pulpcore.content_star.application import create_application  # noqa: E402
from pulpcore.content_star.errors import render  # noqa: E402
from pulpcore.content_star.in_place import InPlace  # noqa: E402
from pulpcore.content_star.mounts import mounted  # noqa: E402
from pulpcore.content_star.paths import refuse_dot_segments  # noqa: E402
from pulpcore.content_star.websockets import refuse  # noqa: E402


class Router:
    """Sends content to the content app and everything else to Django."""

    def __init__(
        self, content: ASGIApp, django: ASGIApp, content_prefix: str, in_place: bool = False
    ) -> None:
        """`content_prefix` begins and ends with a slash; without the latter it is content too.

        `in_place` serves the content that Django redirects to, instead of the redirect.
        """
        self.content = content
        self.django = InPlace(django, content, self.is_content) if in_place else django
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
            await render(Request(scope), error)(scope, receive, send)
        else:
            await self.django(scope, receive, send)

    def is_content(self, scope: Scope) -> bool:
        """Tell whether the path of the URL is the content prefix, below it, or a plugin's."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return f"{path}/".startswith(self.prefix) or mounted(scope) is not None


application = Router(
    content=create_application("api", "content"),
    django=_django_application,
    content_prefix=settings.CONTENT_PATH_PREFIX,
    in_place=settings.CONTENT_STAR_SERVE_IN_PLACE,
)

content_application = create_application("content")
