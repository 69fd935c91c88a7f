"""Responses from memory as bytes: header options of uvicorn that they cannot have."""

from typing import Any

import pytest
import uvicorn

from pulpcore.content_star.responses.immediate import ImmediateResponse, ResponseHead
from pulpcore.content_star.server.immediate import ImmediateResponses


class InMemory:
    """Application whose only response is in memory."""

    def immediate_response(self, scope: Any) -> ImmediateResponse:
        return ImmediateResponse(ResponseHead(200, [(b"content-length", b"1")]), [], b"a")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError


def response(*headers: tuple[str, str], default: list[tuple[bytes, bytes]]) -> bytes | None:
    config = uvicorn.Config(InMemory(), headers=list(headers), proxy_headers=False)
    config.load()
    responses = ImmediateResponses(config)
    found = {responses.bytes_for({"headers": []}, default) for _ in range(3)}
    assert len(found) == 1
    return found.pop()


def test_default_headers_are_sent():
    sent = response(default=[(b"date", b"now")])
    assert sent == b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 1\r\n\r\na"


@pytest.mark.parametrize("name", ["Connection", "content-length", "Transfer-Encoding"])
def test_header_option_that_frames_the_response_calls_the_application(name):
    """Its connection may have to be closed, which the call does."""
    assert response((name, "close"), default=[(b"date", b"now")]) is None


def test_invalid_default_header_calls_the_application_each_time():
    assert response(default=[(b"date", b"now"), (b"x-bad", b"a\x01b")]) is None
