"""X-Accel-Redirect and X-Sendfile responses: the server in front sends the file."""

from typing import Unpack

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.responses.artifact import (
    ArtifactResponse,
    RepresentationArguments,
    send_empty,
)
from pulpcore.content_star.responses.source import Source

# Conditions that nginx evaluates with validators of its own, and wrongly answers 412 to.
_EVALUATED_HERE = frozenset({b"if-match", b"if-unmodified-since"})


class SendfileResponse(ArtifactResponse):
    """ASGI application that sends headers and no body; `header` names the file to send.

    The server in front handles Range, and If-Range by the ETag of this response if it is configured
    to pass that. Sent here are responses without a body (HEAD, 304), and those to conditions that
    it evaluates wrongly. Raises as `ArtifactResponse`.
    """

    def __init__(
        self,
        source: Source,
        header: tuple[str, str],
        **representation: Unpack[RepresentationArguments],
    ) -> None:
        """`header` is name and value of a header that the server in front removes."""
        super().__init__(source, **representation)
        name, value = header
        self._offload_header = (name.lower().encode("ascii"), value.encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET" or any(name in _EVALUATED_HERE for name, _ in scope["headers"]):
            return await super().__call__(scope, receive, send)
        status = self._precondition(scope, Headers(raw=scope["headers"]))
        if status is not None:
            return await self._send_precondition(status, send)
        with await self._open([]):  # raises ArtifactMissing
            pass
        # The server in front sets Accept-Ranges itself.
        headers = [header for header in self._headers if header[0] != b"accept-ranges"]
        headers += [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"content-length", b"0"),
            self._offload_header,
        ]
        await send_empty(200, headers, send)
