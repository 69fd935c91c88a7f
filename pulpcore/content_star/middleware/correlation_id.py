"""Correlation ids of requests, in the response and in log lines, as django-guid does."""

# Annotations of the nested function would be evaluated for each request otherwise.
from __future__ import annotations

from collections.abc import Awaitable
from random import getrandbits

from django_guid.config import settings
from django_guid.context import guid
from django_guid.utils import generate_guid, validate_guid
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.responses.immediate import ImmediateResponse, immediate_response

# Maximum characters of an id from a client: `urn:uuid:{...}` has 47.
MAX_LENGTH = 64

_KEY = "content_star.correlation_id"

_RANDOM = ~(0xF << 76 | 0x3 << 62)
_VERSION_4 = 0x4 << 76 | 0x2 << 62


class CorrelationId:
    """ASGI middleware that sets the correlation id, from the request or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._header = settings.guid_header_name.lower().encode("latin-1")
        usual = settings.uuid_format == "hex" and settings.uuid_length == 32
        self._generate = _generate if usual else generate_guid

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        """Return the response if it is in memory, see `responses/immediate.py`."""
        correlation_id = self._id_of(scope)
        token = guid.set(correlation_id)  # for the access log
        try:
            response = immediate_response(self.app, scope)
        finally:
            guid.reset(token)
        if response is not None:
            response.request_headers.append((self._header, correlation_id.encode("latin-1")))
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        correlation_id = self._id_of(scope)
        guid.set(correlation_id)  # `set_guid` would log each replaced id
        header = (self._header, correlation_id.encode("latin-1"))

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            return send(message)

        await self.app(scope, receive, send_with_id)

    def _id_of(self, scope: Scope) -> str:
        """Return the id of the request, the same each time."""
        found: str | None = scope.get(_KEY)
        if found is None:
            found = scope[_KEY] = self._given(scope) or self._generate()
        return found

    def _given(self, scope: Scope) -> str | None:
        """Return the id in the request if it is a UUID; other values could forge log lines."""
        for name, value in scope["headers"]:
            if name == self._header:
                given: str = value.decode("latin-1")
                is_id = 0 < len(given) <= MAX_LENGTH and validate_guid(given)
                return given if is_id else None
        return None


def _generate() -> str:
    """Return a random UUID, version 4 (RFC 9562 section 5.4), ten times as fast as `uuid.uuid4`.

    The generator is not cryptographic, since the id is public.
    """
    return (getrandbits(128) & _RANDOM | _VERSION_4).to_bytes(16, "big").hex()
