"""The correlation id that ties a response to its lines in the log, as django-guid does it."""

from uuid import uuid4

from django_guid import set_guid
from django_guid.config import settings
from django_guid.utils import generate_guid, validate_guid
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
        correlation_id = self._given(scope) or _generate()
        set_guid(correlation_id)
        header = (self._header, correlation_id.encode("latin-1"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self.app(scope, receive, send_with_id)

    def _given(self, scope: Scope) -> str | None:
        """Return the id that the client sent if it is a UUID: anything else could forge lines of
        the log."""
        for name, value in scope["headers"]:
            if name == self._header:
                given: str = value.decode("latin-1")
                return given if given and validate_guid(given) else None
        return None


def _generate() -> str:
    if settings.uuid_format == "hex" and settings.uuid_length == 32:
        return uuid4().hex  # as below, which looks these two up again
    guid: str = generate_guid()
    return guid
