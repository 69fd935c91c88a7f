"""Leaving the bytes of an artifact to the server in front of us."""

from typing import Unpack

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.responses.artifact import (
    ArtifactResponse,
    RepresentationArguments,
    send_empty,
)
from pulpcore.content_star.responses.source import Source

# Conditions that nginx would judge by validators of its own, and answer 412 to.
_OURS = frozenset({b"if-match", b"if-unmodified-since"})


class SendfileResponse(ArtifactResponse):
    """Sends headers and no body: `header` tells the server in front which file to send.

    That server answers ranges (and If-Range by our ETag, if it is configured to keep it). We answer
    what needs no bytes, HEAD and 304, and what it would get wrong. Raises as `ArtifactResponse`.
    """

    def __init__(
        self,
        source: Source,
        header: tuple[str, str],
        **representation: Unpack[RepresentationArguments],
    ) -> None:
        """`header` is the name and the value of a header that the server takes out."""
        super().__init__(source, **representation)
        name, value = header
        self._handover = (name.lower().encode("ascii"), value.encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET" or any(name in _OURS for name, _ in scope["headers"]):
            return await super().__call__(scope, receive, send)
        status = self._precondition(scope, Headers(raw=scope["headers"]))
        if status is not None:
            return await self._send_precondition(status, send)
        with await self._open([]):  # it is there, and has its size
            pass
        # It is for the server in front to say which ranges it takes.
        headers = [header for header in self._headers if header[0] != b"accept-ranges"]
        headers += [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"content-length", b"0"),
            self._handover,
        ]
        await send_empty(200, headers, send)
