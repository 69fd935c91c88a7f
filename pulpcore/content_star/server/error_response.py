"""Error responses of the server itself, to requests that no application gets."""

from collections.abc import Iterable
from http import HTTPStatus

from pulpcore.content_star.responses.headers import RETRY_AFTER
from pulpcore.content_star.server.header_case import serialize_headers


def error_response(
    status: int, text: str, default_headers: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return a complete response, with `text` as its body, after which the connection closes."""
    body = f"{status}: {text}".encode()
    headers = [
        *default_headers,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER))
    status_line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    return b"%b%b\r\n%b" % (status_line, serialize_headers(headers), body)
