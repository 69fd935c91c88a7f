"""The application, with a path that returns the bytes that `os.sendfile` has sent."""

import os
from collections import Counter

from starlette.types import Receive, Scope, Send

import pulpcore.routing

SENT: Counter[str] = Counter()

_sendfile = os.sendfile


def sendfile(socket: int, fd: int, offset: int, count: int) -> int:
    """Send as `os.sendfile`, and count the bytes."""
    sent = _sendfile(socket, fd, offset, count)
    SENT["bytes"] += sent
    return sent


os.sendfile = sendfile


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http" or scope["path"] != "/sendfile-bytes":
        return await pulpcore.routing.application(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % SENT["bytes"]})
