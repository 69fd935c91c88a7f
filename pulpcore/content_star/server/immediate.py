"""Responses from memory, written as soon as a request is parsed, without a task for it.

Half of the time of such a response was the task, its request/response cycle and the messages. So
the application is asked for the response first (`responses/immediate.py`). It is called for all
other requests, for those with a body or an expectation, and where a middleware of the operator is
around it.
"""

from typing import ClassVar
from weakref import WeakKeyDictionary

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pulpcore.content_star.responses.immediate import (
    ImmediateResponse,
    RawHeaders,
    immediate_response,
)
from pulpcore.content_star.server.header_case import FRAMING, serialize_headers
from pulpcore.content_star.server.heads import RequestHeads


class ImmediateResponses:
    """The responses of a server's application that need no task."""

    _of: ClassVar[WeakKeyDictionary[Config, "ImmediateResponses"]] = WeakKeyDictionary()

    def __init__(self, config: Config) -> None:
        app = config.loaded_app
        self._app = app.app if type(app) is ProxyHeadersMiddleware else app
        self.heads = RequestHeads(config)
        # `--header` may set those too, which end the connection.
        frames = not FRAMING.isdisjoint(name.lower() for name, _ in config.encoded_headers)
        self._enabled = not (frames or config.root_path or config.limit_concurrency is not None)
        self._default_headers: RawHeaders = []
        self._default_lines = b""

    @classmethod
    def of(cls, config: Config) -> "ImmediateResponses":
        """Return those of the server that has this configuration."""
        found = cls._of.get(config)
        if found is None:
            found = cls._of[config] = cls(config)
        return found

    def bytes_for(self, scope: Scope, default_headers: RawHeaders) -> bytes | None:
        """Return the complete response to a request, or None.

        Also None after an exception: in a callback of the parser, it would be taken for an invalid
        request. The call of the application raises it too, and uvicorn logs it.
        """
        if not self._enabled:
            return None
        try:
            response = immediate_response(self._app, scope)
            return response and self._serialize(response, default_headers)
        except Exception:
            return None

    def _serialize(self, response: ImmediateResponse, default_headers: RawHeaders) -> bytes:
        head = response.head
        if not head.serialized:
            head.serialized = serialize_headers(head.headers)
        if default_headers is not self._default_headers:  # a new list each second, for `Date`
            self._default_lines = serialize_headers(default_headers)
            self._default_headers = default_headers
        lines = self._default_lines, head.serialized, serialize_headers(response.request_headers)
        return b"".join((STATUS_LINE[head.status], *lines, b"\r\n", response.body))
