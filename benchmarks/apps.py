"""ASGI applications to compare with."""

import os

from starlette.staticfiles import StaticFiles
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


def static() -> StaticFiles:
    """Serve the directory that BENCHMARK_TREE names."""
    return StaticFiles(directory=os.environ["BENCHMARK_TREE"], follow_symlink=True)
