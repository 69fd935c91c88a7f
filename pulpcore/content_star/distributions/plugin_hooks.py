"""What a plugin answers by itself: by the steps of its class, or else the hooks of its model."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Scope

from pulpcore.app.models import ContentArtifact, Distribution, Domain
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.listings.negotiation import prefers_json
from pulpcore.content_star.resolve.content import find
from pulpcore.content_star.responses.defaults import DefaultHeadersMiddleware
from pulpcore.content_star.responses.headers import SECURITY_HEADERS

ResponseAdapter = Callable[[Any, Scope, Domain, str], ASGIApp]
"""Makes an ASGI application of a plugin's response, for a request's scope, domain and path."""

_adapters: dict[type, ResponseAdapter] = {}

Responder = Callable[[Any], ASGIApp]
"""Makes an ASGI application of an exception that a plugin's code raised as its response."""

_responders: dict[type[Exception], Responder] = {}

NOT_SERVED = "The plugin answers this path with something that is no response."


def register_adapter(kind: type, adapter: ResponseAdapter) -> None:
    """Have hooks return responses of the class `kind`: `adapter` translates them."""
    _adapters[kind] = adapter


def register_responder(kind: type[Exception], responder: Responder) -> None:
    """Have plugins' code raise exceptions of the class `kind` as its response."""
    _responders[kind] = responder


def responder_of(error: Exception) -> Responder | None:
    """Return the responder for an exception, if its class or one above it has one."""
    return next((_responders[kind] for kind in type(error).__mro__ if kind in _responders), None)


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
        if adapter := _adapter_for(result):
            return self._adapted(adapter, result)
        return JSONResponse(result, headers=dict(SECURITY_HEADERS))

    def from_steps(self) -> ASGIApp | None:
        """Ask the class's `find_content`, or the model's hook where the class has none."""
        if type(self).find_content is DistributionApp.find_content:
            return self.from_plugin()
        found = self.find_content(self.path)
        if isinstance(found, ContentArtifact):
            return self.file(find(found, self.source.version), self.path)
        return DefaultHeadersMiddleware(found, SECURITY_HEADERS) if found else None

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
        if adapter := _adapter_for(result):
            return self._adapted(adapter, result)
        raise HTTPException(501, NOT_SERVED)

    def _adapted(self, adapter: ResponseAdapter, response: object) -> ASGIApp:
        """Return the plugin's response as an ASGI application."""
        return adapter(response, self.request.scope, self.distribution.pulp_domain, self.path)


def _adapter_for(result: object) -> ResponseAdapter | None:
    return next((_adapters[kind] for kind in type(result).__mro__ if kind in _adapters), None)
