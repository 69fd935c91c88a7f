"""ASGI applications for the aiohttp responses of a distribution's hooks."""

from aiohttp import web
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.aiohttp_bridge.files import file_app, is_file
from pulpcore.content_star.aiohttp_bridge.request import match
from pulpcore.content_star.aiohttp_bridge.run import run
from pulpcore.content_star.upstream import with_domain
from pulpcore.plugin.models import Domain


def response_app(response: web.StreamResponse, scope: Scope, domain: Domain, path: str) -> ASGIApp:
    """Return an ASGI application that sends `response`, for `path` in `domain`. Blocks.

    A file is looked up here, with the database connection of this thread.
    Raises ArtifactMissing, StoreUnavailable.
    """
    is_plain = response.status == 200 and not (response.compression or response.cookies)
    if is_file(response) and is_plain:
        return file_app(response, scope)
    return HookResponse(response, domain, path)


class HookResponse:
    """ASGI application that prepares and sends an aiohttp response of any class."""

    def __init__(
        self, response: web.StreamResponse, domain: Domain | None = None, path: str = ""
    ) -> None:
        """`domain` and `path` below it are set as `match_info` of the request."""
        self.response = response
        self.domain = domain
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with with_domain(self.domain):
            await run(scope, receive, send, self._respond)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        match(request, path=self.path, pulp_domain=self.domain.name if self.domain else "default")
        return self.response
