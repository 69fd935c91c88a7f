"""WebSockets, which nothing in Pulp speaks."""

from starlette.types import Scope, Send

TEXT = b"501: Pulp speaks no WebSocket."


async def refuse(scope: Scope, send: Send) -> None:
    """Refuse the handshake: with 501 and a line of text where the server can, else with its 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(TEXT)),
    ]
    await send({"type": "websocket.http.response.start", "status": 501, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": TEXT})
