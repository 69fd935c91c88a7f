"""ASGI applications to compare with."""

from starlette.types import Receive, Scope, Send

SMALL = 4096
"""Bytes of a small file."""

_BODY = b"x" * SMALL
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/octet-stream"), (b"content-length", b"4096")],
}


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer anything with as many bytes as a small file has."""
    if scope["type"] != "http":
        return
    await send(_START)
    await send({"type": "http.response.body", "body": _BODY})
