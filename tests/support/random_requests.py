"""Random requests for a file, most of them valid, to compare two ways of responding."""

from collections.abc import Callable
from random import Random

_METHODS = [b"GET"] * 8 + [b"HEAD"] * 4 + [b"POST", b"OPTIONS", b"PUT", b"get", b"CONNECT", b"PRI"]
_VERSIONS = [b"HTTP/1.1"] * 24 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTCPCP/1.0"]
_QUERIES = [b"?", b"?a=b", b"?path=1", b"?%00", b"?format=json", b"?use", b"?a#b", b"??&&=;", b"#f"]
_HEADERS = [
    b"Accept: text/html",
    b"Accept: application/json",
    b"Accept: application/json;q=0.1, */*;q=x",
    b"Accept-Encoding: gzip, br",
    b"Authorization: Basic YTpi",
    b"Cache-Control: no-cache, no-store",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: keep-alive, close, TE",
    b"Content-Length: +0",
    b"Content-Length: 0",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Cookie: a=b; c",
    b"Correlation-ID: 0123456789abcdef0123456789abcdef",
    b"Correlation-ID: \xff",
    b"Expect: 100-continue",
    b"Forwarded: for=192.0.2.7",
    b"Host: b",
    b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT",
    b'If-None-Match: "a"',
    b"If-None-Match: *",
    b"If-None-Match: %(etag)b",
    b"If-None-Match: W/%(etag)b",
    b"If-None-Match: %(etag)b, %(etag)b",
    b"If-Range: %(etag)b",
    b"Keep-Alive: timeout=0",
    b"Max-Forwards: 0",
    b"Pragma: no-cache",
    b"Proxy-Connection: close",
    b"Range: bytes=0-3",
    b"Range: bytes=9999999-",
    b"TE: trailers",
    b"Transfer-Encoding: chunked\r\nTrailer: A",
    b"Transfer-Encoding: gzip, chunked",
    b"Upgrade: websocket",
    b"Via: 1.1 a",
    b"X-Empty:",
    b"X-Folded: a\r\n b",
    b"X-Forwarded-For: 192.0.2.7, \xff, [::1]:9",
    b"X-Forwarded-Proto: gopher",
    b"X-Long: " + b"a" * 9000,
    b"\r\n".join([b"X-Many: a"] * 260),
    b"X-Tab:\ta\t",
]
_NOISE = [b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"%", b"\x7f", b"\xff", b"/", b"?", b"#"]


def random_request(random: Random, target: bytes, etag: bytes) -> tuple[bytes, bool]:
    """Return a request for `target` or for another resource, and whether it has a whole head."""
    method, version = random.choice(_METHODS), random.choice(_VERSIONS)
    url = random.choice(_TARGETS)(target) if random.random() < 0.3 else target
    if random.random() < 0.3:
        url += random.choice(_QUERIES)
    fields = [b"Host: a"] if random.random() < 0.95 else []
    for field in random.choices(_HEADERS, k=random.choice([0, 0, 1, 1, 2, 3])):
        fields.append(field.replace(b"%(etag)b", etag))
    random.shuffle(fields)
    request = b"\r\n".join([b"%b %b %b" % (method, url, version), *fields, b"", b""])
    if b"chunked" in request.lower():
        return request + b"5\r\nGET /\r\n0\r\nHost: b\r\n\r\n", True
    if random.random() < 0.8:
        return request, True
    for _ in range(random.randint(1, 2)):
        place = random.randrange(len(request))
        request = request[:place] + random.choice(_NOISE) + request[place + random.randint(0, 1) :]
    return request, False


_TARGETS: list[Callable[[bytes], bytes]] = [
    lambda target: b"http://a" + target,
    lambda target: b"http://b:80" + target,
    lambda target: b"a:443",
    lambda target: b"*",
    lambda target: b"/",
    lambda target: b"http://a",
    lambda target: b"/" + target,
    lambda target: target + b"/",
    lambda target: target + b";a=b",
    lambda target: target + b"%00",
    lambda target: target + b"%2e",
    lambda target: target + b"\xc3\xa9",
    lambda target: target + b"%ff",
    lambda target: target.replace(b"/content/", b"/content//"),
    lambda target: target.replace(b"/content/", b"/content/x/../"),
    lambda target: target.replace(b"/content/", b"/content%2F"),
    lambda target: target.replace(b"%20", b"+"),
    lambda target: target.replace(b"a", b"%61"),
    lambda target: target.replace(b".bin", b".bi"),
    lambda target: target[:-9],
]
