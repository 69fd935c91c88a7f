"""Middleware that enforces the message framing of HTTP/1.1 on responses of views (RFC 9112 6)."""

import logging
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

# Endpoints and faults that have been logged: each response of such a view is likely to be wrong.
_logged: set[str] = set()


class Framing:
    """ASGI middleware that truncates a body to its `Content-Length`.

    WSGI servers do so (PEP 3333), and views rely on it. ASGI servers raise an error after the
    bytes, which closes a connection that a proxy may be about to reuse. A shorter body is left
    without its last message, so that the server closes the connection and the client sees that it
    is incomplete. Dropped are a body where method or status allow none (RFC 9110 6.4.1), an invalid
    `Content-Length`, and `Transfer-Encoding`, which only the server may set.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _FramedSend(scope, send))


class _FramedSend:
    """`send` callable that enforces the framing of one response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._has_body = True
        self._remaining: int | None = None
        """Bytes of the body that are still to be sent; None if the response has no valid length."""

    async def __call__(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                message = self._start(message)
            case "http.response.body":
                message = self._truncate(message)
        await self._send(message)

    def _start(self, message: Message) -> Message:
        status, headers = message["status"], list(message.get("headers", ()))
        is_bodiless = status < 200 or status in (204, 304)
        self._has_body = not (is_bodiless or self._scope["method"] == "HEAD")
        framing = [(name.lower(), value) for name, value in headers if name.lower() in _FRAMING]
        length = self._length(framing)
        if self._has_body:
            self._remaining = length
        # uvicorn would wait for the body of a 304; a 204 must not have a length (RFC 9110 8.6).
        announced = None if is_bodiless else length
        if framing == ([(b"content-length", b"%d" % announced)] if announced is not None else []):
            return message
        headers = [each for each in headers if each[0].lower() not in _FRAMING]
        if announced is not None:
            headers.append((b"Content-Length", b"%d" % announced))
        return {**message, "headers": headers}

    def _length(self, framing: Iterable[tuple[bytes, bytes]]) -> int | None:
        """Return the valid `Content-Length`, or None (RFC 9110 8.6)."""
        values = {value.strip() for name, value in framing if name == b"content-length"}
        if len(values) == 1 and (value := values.pop()).isdigit():
            return int(value)
        if values:
            self._log("has several values of Content-Length, or one that is not a number")
        return None

    def _truncate(self, message: Message) -> Message:
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._has_body:
            return {"type": "http.response.body", "more_body": more}
        if self._remaining is None:
            return message
        if len(body) > self._remaining:
            self._log("is longer than its Content-Length and was truncated")
            body = body[: self._remaining]
        self._remaining -= len(body)
        if self._remaining and not more:
            self._log("is shorter than its Content-Length, and the connection was closed")
            more = True
        return {"type": "http.response.body", "body": body, "more_body": more}

    def _log(self, fault: str) -> None:
        name = _name(self._scope.get("endpoint"))
        if f"{name} {fault}" not in _logged:
            _logged.add(f"{name} {fault}")
            log.warning(
                "Response of %s %s. Report it to the authors of the plugin; logged once per view.",
                name,
                fault,
            )


def _name(endpoint: object) -> str:
    """Return the dotted name of an endpoint, which Django and Starlette put into the scope."""
    kind = getattr(endpoint, "cls", None) or getattr(endpoint, "view_class", None) or endpoint
    name = getattr(kind, "__qualname__", type(kind).__qualname__)
    return f"{getattr(kind, '__module__', None)}.{name}" if kind else "an unknown view"
