"""Holds responses of other people's code to the framing that HTTP/1.1 gives them (RFC 9112 6)."""

import logging
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

# Endpoints whose responses have been logged: each of their responses is likely to be wrong.
_logged: set[str] = set()


class Framing:
    """ASGI middleware that sends as many bytes as `Content-Length` announces, and no more.

    WSGI servers do so (PEP 3333), and views rely on it. ASGI servers raise an error instead, after
    the bytes: the connection is closed where a proxy means to use it again. A response that is
    shorter ends without its end, by which the server closes the connection and the client sees that
    something is missing. A body where the method or the status allows none is dropped (RFC 9110
    6.4.1), and so is a length that means nothing, and `Transfer-Encoding`, which is the server's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _FramedSend(scope, send))


class _FramedSend:
    """The `send` of one response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._has_body = True
        self._left: int | None = None
        """Bytes that are still to come, where the response announces how many there are."""

    async def __call__(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                message = self._start(message)
            case "http.response.body":
                message = self._cut(message)
        await self._send(message)

    def _start(self, message: Message) -> Message:
        status, headers = message["status"], list(message.get("headers", ()))
        is_bodiless = status < 200 or status in (204, 304)
        self._has_body = not (is_bodiless or self._scope["method"] == "HEAD")
        framing = [(name.lower(), value) for name, value in headers if name.lower() in _FRAMING]
        length = self._length(framing)
        if self._has_body:
            self._left = length
        # uvicorn would wait for the body of a 304; a 204 must not have a length (RFC 9110 8.6).
        announced = None if is_bodiless else length
        if framing == ([(b"content-length", b"%d" % announced)] if announced is not None else []):
            return message
        headers = [each for each in headers if each[0].lower() not in _FRAMING]
        if announced is not None:
            headers.append((b"Content-Length", b"%d" % announced))
        return {**message, "headers": headers}

    def _length(self, framing: Iterable[tuple[bytes, bytes]]) -> int | None:
        """Return the length that is announced, if it is one; RFC 9110 8.6."""
        values = {value.strip() for name, value in framing if name == b"content-length"}
        if len(values) == 1 and (value := values.pop()).isdigit():
            return int(value)
        if values:
            self._log("announces several lengths or no number")
        return None

    def _cut(self, message: Message) -> Message:
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._has_body:
            return {"type": "http.response.body", "more_body": more}
        if self._left is None:
            return message
        if len(body) > self._left:
            self._log("is longer than its Content-Length, and was cut")
            body = body[: self._left]
        self._left -= len(body)
        if self._left and not more:
            self._log("is shorter than its Content-Length; its connection is closed")
            more = True
        return {"type": "http.response.body", "body": body, "more_body": more}

    def _log(self, fault: str) -> None:
        name = _name(self._scope.get("endpoint"))
        if f"{name} {fault}" not in _logged:
            _logged.add(f"{name} {fault}")
            log.warning(
                "A response of %s %s. Report it to the plugin's authors; it is logged once.",
                name,
                fault,
            )


def _name(endpoint: object) -> str:
    """Return where the code of an endpoint is, which Django and Starlette put into the scope."""
    kind = getattr(endpoint, "cls", None) or getattr(endpoint, "view_class", None) or endpoint
    name = getattr(kind, "__qualname__", type(kind).__qualname__)
    return f"{getattr(kind, '__module__', None)}.{name}" if kind else "an unknown view"
