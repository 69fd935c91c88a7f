"""Request heads of the server: which are cached, and what of a request is not of its head."""

from typing import Any

import httptools
import pytest
import uvicorn

from pulpcore.content_star.responses.immediate import HEAD_CACHE
from pulpcore.content_star.server.heads import MAX_HEAD_BYTES, MAX_HEADERS, MAX_HEADS, RequestHeads

CONNECTION = {"client": ("192.0.2.1", 1), "server": ("192.0.2.2", 80), "scheme": "https"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


@pytest.fixture
def heads() -> RequestHeads:
    config = uvicorn.Config(app, forwarded_allow_ips="127.0.0.1")
    config.load()
    return RequestHeads(config)


class Parsed:
    """A request of 127.0.0.1, as the protocol parses it."""

    def __init__(self, data: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "root_path": "",
            "state": {},
            "headers": self.headers,
            "client": ("127.0.0.1", 2),
            "server": None,
            "scheme": "http",
            "app.note": "of this request",
        }


def cached(heads: RequestHeads, head: bytes) -> Any:
    """Return the scope for a third request with a head, from another client, or None."""
    parsed = Parsed(head)
    scope = parsed.scope
    assert heads.complete(scope, parsed.method, parsed.url)
    for _ in range(2):
        assert heads.get(head, CONNECTION) is None
        heads.add(head, scope)
    return heads.get(head, CONNECTION)


def test_cached_head_has_the_scope_of_its_connection(heads):
    head = b"HEAD /a%20b?c=d HTTP/1.1\r\nHost: a\r\nAccept: x\r\n\r\n"
    scope = cached(heads, head)
    assert scope == CONNECTION | {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "HEAD",
        "path": "/a%20b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d",
        "root_path": "",
        "state": {},
        "headers": [(b"host", b"a"), (b"accept", b"x")],
        HEAD_CACHE: {},
    }
    assert heads.get(head, {})[HEAD_CACHE] is scope[HEAD_CACHE], "shared by its requests"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YTpi\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"a" * MAX_HEAD_BYTES),
        b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"X: a\r\n" * MAX_HEADERS),
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["password", "cookie", "forwarded", "long", "many headers", "empty line"],
)
def test_head_is_not_cached(heads, head):
    assert cached(heads, head) is None


@pytest.mark.parametrize("more", [b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n", b"GET /b"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_head_with_more_data_is_not_cached(heads, end, more):
    """Also where a parser takes lines without a carriage return."""
    parsed = Parsed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    scope = parsed.scope
    assert heads.complete(scope, parsed.method, parsed.url)
    data = end.join([b"GET / HTTP/1.1", b"Host: a", b"", more])
    for _ in range(3):
        heads.add(data, scope)
    assert heads.get(data, CONNECTION) is None


def test_forwarded_client_is_that_of_a_trusted_proxy(heads):
    parsed = Parsed(b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n")
    scope = parsed.scope
    assert heads.complete(scope, parsed.method, parsed.url)
    assert scope["client"][0] == "192.0.2.9"


def test_number_of_cached_heads_is_bounded(heads):
    several = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(2 * MAX_HEADS)]
    assert all(cached(heads, head) for head in several)
    assert 0 < sum(heads.get(head, {}) is not None for head in several) <= MAX_HEADS
