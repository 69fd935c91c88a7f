"""The correlation id that ties a response to its lines in the log, as django-guid does it."""

from django_guid import set_guid
from django_guid.config import settings
from django_guid.utils import generate_guid, validate_guid
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CorrelationId:
    """ASGI middleware: takes a valid id from the request or makes one, logs and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._header = settings.guid_header_name.lower().encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        correlation_id = _given(Headers(scope=scope)) or generate_guid()
        set_guid(correlation_id)
        header = (self._header, correlation_id.encode("latin-1"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self.app(scope, receive, send_with_id)


def _given(headers: Headers) -> str | None:
    """Return the id that the client sent if it is a UUID: anything else could forge log lines."""
    value = headers.get(settings.guid_header_name)
    return value if value and validate_guid(value) else None
