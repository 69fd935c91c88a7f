"""Call the hooks of plugins: steps of their distribution apps, or hooks of their models."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Scope

from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.listings.negotiation import prefers_json
from pulpcore.content_star.resolve.content import file_of_content
from pulpcore.content_star.responses.defaults import DefaultHeadersMiddleware
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.plugin.models import ContentArtifact, Distribution, Domain

ResponseAdapter = Callable[[Any, Scope, Domain, str], ASGIApp]
"""Converts a plugin's response to an ASGI application, given scope, domain and path."""

_adapters: dict[type, ResponseAdapter] = {}

Responder = Callable[[Any], ASGIApp]
"""Converts an exception that a plugin raised as its response to an ASGI application."""

_responders: dict[type[Exception], Responder] = {}

INVALID_RESPONSE = "The plugin's content_handler returned an object that is not a response."


def register_adapter(kind: type, adapter: ResponseAdapter) -> None:
    """Register `adapter` for responses of the class `kind` that hooks return."""
    _adapters[kind] = adapter


def register_responder(kind: type[Exception], responder: Responder) -> None:
    """Register `responder` for exceptions of the class `kind` that plugins raise as responses."""
    _responders[kind] = responder


def responder_of(error: Exception) -> Responder | None:
    """Return the responder of an exception's class or a base class, or None."""
    return next((_responders[kind] for kind in type(error).__mro__ if kind in _responders), None)


class HookedApp(DistributionApp):
    """Base class of apps that call hooks of the plugin before looking up the source."""

    @property
    def asks_plugin(self) -> bool:
        asks_for_json = prefers_json(self.request) and self.json_hook is not None
        own_handler = type(self.distribution).content_handler is not Distribution.content_handler
        return own_handler or asks_for_json

    @property
    def json_hook(self) -> Callable[[str], object] | None:
        """Overridden `json_for` of the class or `content_handler_json` of the model, or None.

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
        """Return the plugin's JSON for the path, if the client prefers JSON, or None.

        The hook may return any object that can be serialized, or a response with an adapter.
        """
        if not prefers_json(self.request) or self.json_hook is None:
            return None
        result = self.json_hook(self.path)
        if result is None:
            return None
        if adapter := _adapter_for(result):
            return self._adapted(adapter, result)
        return JSONResponse(result, headers=dict(SECURITY_HEADERS))

    def from_find_content(self) -> ASGIApp | None:
        """Return the response of `find_content`, or of the model's hook if it is not overridden."""
        if type(self).find_content is DistributionApp.find_content:
            return self.from_plugin()
        found = self.find_content(self.path)
        if isinstance(found, ContentArtifact):
            return self.file(file_of_content(found, self.source.version), self.path)
        return DefaultHeadersMiddleware(found, SECURITY_HEADERS) if found else None

    def from_plugin(self) -> ASGIApp | None:
        """Return the response of the model's `content_handler`; None if it has none for the path.

        Raises `HTTPException` 501 if it returns anything but a content artifact or a response with
        an adapter.
        """
        if type(self.distribution).content_handler is Distribution.content_handler:
            return None
        result = self.distribution.content_handler(self.path)
        if result is None:
            return None
        if isinstance(result, ContentArtifact):
            response = self.file(file_of_content(result, self.source.version), self.path)
            self.dependencies = None  # the hook may depend on anything
            return response
        if adapter := _adapter_for(result):
            return self._adapted(adapter, result)
        raise HTTPException(501, INVALID_RESPONSE)

    def _adapted(self, adapter: ResponseAdapter, response: object) -> ASGIApp:
        """Return the plugin's response as an ASGI application."""
        return adapter(response, self.request.scope, self.distribution.pulp_domain, self.path)


def _adapter_for(result: object) -> ResponseAdapter | None:
    return next((_adapters[kind] for kind in type(result).__mro__ if kind in _adapters), None)
