"""What a plugin answers by itself: by the steps of its class, or else the hooks of its model."""

from collections.abc import Callable

from aiohttp.web import StreamResponse
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from pulpcore.app.models import ContentArtifact, Distribution
from pulpcore.content_star.bridge.answers import answer
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.lookup import find
from pulpcore.content_star.negotiation import prefers_json
from pulpcore.content_star.responses.defaults import WithDefaults
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

NOT_SERVED = "The plugin answers this path with something that is no response."


class HookedApp(DistributionApp):
    """Knows how to ask the plugin, which may have an answer before anything is looked up."""

    @property
    def asks_plugin(self) -> bool:
        asks_for_json = self.json_handler is not None and prefers_json(self.request)
        own_handler = type(self.distribution).content_handler is not Distribution.content_handler
        return own_handler or asks_for_json

    @property
    def json_handler(self) -> Callable[[str], object] | None:
        """The class's `json_for`, or the model's `content_handler_json`, if there is one.

        Pulpcore has the latter since 3.123.
        """
        if type(self).json_for is not DistributionApp.json_for:
            return self.json_for
        kind, hook = type(self.distribution), "content_handler_json"
        if getattr(kind, hook, None) is getattr(Distribution, hook, None):
            return None
        handler: Callable[[str], object] = getattr(self.distribution, hook)
        return handler

    def json_from_plugin(self) -> ASGIApp | None:
        """Ask the plugin for JSON, where the client prefers it; None if it has none for the path.

        It may answer with anything that can be JSON, or with a response of aiohttp's.
        """
        if self.json_handler is None or not prefers_json(self.request):
            return None
        result = self.json_handler(self.path)
        if result is None:
            return None
        if isinstance(result, StreamResponse):
            return self.answer(result)
        return JSONResponse(result, headers=dict(SECURITY_HEADERS))

    def from_steps(self) -> ASGIApp | None:
        """Ask the class's `find_content`, or the model's hook where the class has none."""
        if type(self).find_content is DistributionApp.find_content:
            return self.from_plugin()
        found = self.find_content(self.path)
        if isinstance(found, ContentArtifact):
            return self.file(find(found, self.source.version), self.path)
        return WithDefaults(found, SECURITY_HEADERS) if found else None

    def from_plugin(self) -> ASGIApp | None:
        """Ask the plugin's `content_handler`; None if it has none or leaves the path to us.

        Raises `HTTPException` 501 if it answers with anything but a content artifact or a response
        of aiohttp's.
        """
        if type(self.distribution).content_handler is Distribution.content_handler:
            return None
        result = self.distribution.content_handler(self.path)
        if result is None:
            return None
        if isinstance(result, ContentArtifact):
            response = self.file(find(result, self.source.version), self.path)
            self.made_from = None  # who knows what the plugin looked at
            return response
        if isinstance(result, StreamResponse):
            return self.answer(result)
        raise HTTPException(501, NOT_SERVED)

    def answer(self, response: StreamResponse) -> ASGIApp:
        """Answer with a response of aiohttp's that the plugin made."""
        return answer(response, self.request.scope, self.distribution.pulp_domain, self.path)
