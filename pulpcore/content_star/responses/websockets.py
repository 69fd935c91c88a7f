"""Refuse WebSocket handshakes, which Pulp does not support."""

from starlette.types import Scope, Send

TEXT = b"501: Pulp does not support WebSocket."


async def refuse(scope: Scope, send: Send) -> None:
    """Refuse the handshake: with 501 and text if the server can send a response, else with 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(TEXT)),
    ]
    await send({"type": "websocket.http.response.start", "status": 501, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": TEXT})
