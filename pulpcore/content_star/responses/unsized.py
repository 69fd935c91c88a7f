"""The response for a file of unknown size."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Unpack

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.responses.artifact import Representation, RepresentationArguments


class UnsizedResponse(Representation):
    """ASGI application that streams `chunks` without Content-Length: 200, 304 or 412.

    HTTP/1.1 uses the chunked transfer coding for it (RFC 9112 section 7.1). Range is ignored (RFC
    9110 section 14.2). Errors of the iterator are raised: before the response has started, or
    later, for the server to close the connection.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        **representation: Unpack[RepresentationArguments],
    ) -> None:
        """The other arguments are those of `Representation`; `size` is not sent."""
        super().__init__(**representation)
        unknown = (b"x-pulp-artifact-size",)
        self._headers = [header for header in self._headers if header[0] not in unknown]
        self._headers.append((b"content-type", self.content_type.encode("latin-1")))
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await self._respond(scope, send)

    async def _respond(self, scope: Scope, send: Send) -> None:
        status = self._precondition(scope, Headers(raw=scope["headers"]))
        if status is not None:
            return await self._send_precondition(status, send)
        start = {"type": "http.response.start", "status": 200, "headers": self._headers}
        if scope["method"] == "HEAD":
            await send(start)
            return await send({"type": "http.response.body", "body": b""})
        body = await anext(self._chunks, b"")
        await send(start)
        while body:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = await anext(self._chunks, b"")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
