"""Format of access log lines, for scopes of any ASGI server."""

import logging
from typing import Any

import pytest

from pulpcore.content_star.middleware.access_log import AccessLog
from pulpcore.content_star.request_info import RequestInfo


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines():
    logger = logging.getLogger("pulpcore.content_star.access")
    handler, level = Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def scope(
    path: bytes = b"/x", query: bytes = b"", client: Any = ("::1", 5), **headers: bytes
) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "http_version": "2",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "client": client,
        "headers": [(name.replace("_", "-").encode(), value) for name, value in headers.items()],
    }


def write(lines: list[str], **request: Any) -> str:
    AccessLog().record(scope(**request), RequestInfo(status=200, bytes_sent=7, seconds=0.0125))
    (line,) = lines
    return line


def test_missing_headers_and_client_are_logged_as_dashes(lines):
    line = write(lines, client=None)
    assert line.startswith("- - - [")
    assert line.endswith('] "GET /x HTTP/2" 200 7 "-" "-" 12.5 -')


@pytest.mark.parametrize("byte", range(256))
def test_control_characters_and_quotes_are_escaped(lines, byte):
    evil = b"a" + bytes([byte]) + b"b"
    line = write(
        lines,
        path=b"/" + evil,
        query=evil,
        client=(evil.decode("latin-1"), 5),
        user_agent=evil,
        referer=evil,
    )
    assert line.isascii() and line.isprintable()
    bare = line.replace("\\\\", "").replace('\\"', "")
    assert bare.count('"') == 6
    assert len(bare.split('"')[0].split()) == 5


@pytest.mark.parametrize(
    ("query", "logged"),
    [
        (b"a=1&b=2", "a=1&b=2"),
        (b"validate_token=x:y&expires=1", "validate_token=***&expires=1"),
        (b"VALIDATE%5FTOKEN=x", "VALIDATE%5FTOKEN=***"),
        (b"%2576alidate_token=x", "%2576alidate_token=***"),
        (b"X-Amz-Credential=a%2Fb&X-Amz-Date=c", "X-Amz-Credential=***&X-Amz-Date=***"),
        (b"X-Goog-Signature=x", "X-Goog-Signature=***"),
        (b"sp=r&sig=x%3D", "sp=r&sig=***"),
        (b"Key-Pair-Id=x&Policy=y&Signature=z", "Key-Pair-Id=***&Policy=***&Signature=***"),
        (b"access_token=a=b", "access_token=***"),
        (b"q=1;token=x", "q=***"),
        (b"next=/y?token=x", "next=***"),
        (b"%74oken%3Dx", "***"),
        (b"token", "token"),
        (b"a?b#c//d@e", "a?b#c//d@e"),
    ],
)
def test_credentials_in_the_query_are_masked(lines, query, logged):
    assert f'"GET /x?{logged} HTTP/2"' in write(lines, query=query)


@pytest.mark.parametrize(
    ("referer", "logged"),
    [
        (b"https://a.example/b", "https://a.example/b"),
        (b"https://u:p@a.example/b@c", "https://***@a.example/b@c"),
        (b"https://u:p@@a.example/?x=y", "https://***@a.example/?x=y"),
        (b"https://a.example/?sig=x#y", "https://a.example/?sig=***"),
        (b"https://a.example/#access_token=x", "https://a.example/#access_token=***"),
    ],
)
def test_credentials_in_the_referer_are_masked(lines, referer, logged):
    assert f' "{logged}" "-" ' in write(lines, referer=referer)


def test_long_fields_are_truncated(lines):
    long = b"x" * 9000
    line = write(lines, query=b"token=" + long, referer=b"//u:p@" + long, user_agent=long)
    assert len(line) < 3 * 8300
    assert f'"//***@{"x" * 8184}..." "{"x" * 8190}..." 12.5' in line
    assert '"GET /x?token=*** HTTP/2"' in line


def test_userinfo_of_the_referer_is_masked_at_any_length(lines):
    assert '"//***@host"' in write(lines, referer=b"//u:" + b"p" * 9000 + b"@host")
