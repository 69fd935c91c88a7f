"""100 kB of the worst that each parser can be sent: a quadratic one takes minutes for it.

Nothing is said about how long they take but by the limit of a test, which no linear one gets near.
"""

from http import cookies as http_cookies
from types import SimpleNamespace
from typing import Any

import pytest
from django.http.cookie import parse_cookie
from multidict import CIMultiDict
from starlette.datastructures import Headers
from starlette.requests import Request

from pulpcore.content_star.aiohttp_bridge import files
from pulpcore.content_star.auth.authentication import authenticate
from pulpcore.content_star.auth.guards import HOST, GuardRequest
from pulpcore.content_star.cli.compare.access_log import parse_line
from pulpcore.content_star.cli.compare.listing import ListingParser
from pulpcore.content_star.django_app.cookies import make_cookies_linear, unquote
from pulpcore.content_star.middleware import access_log
from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.plugin_host.proxy import _request_headers, is_origin
from pulpcore.content_star.remote import sink
from pulpcore.content_star.remote.pull_through import metadata_cache, response
from pulpcore.content_star.responses.conditional import Validators, evaluate, if_range_matches
from pulpcore.content_star.responses.headers import content_disposition, parse_http_date
from pulpcore.content_star.responses.ranges import RangeNotSatisfiable, parse_ranges
from pulpcore.content_star.storage import objects

SIZE = 100_000
VALIDATORS = Validators('"x"', None)

# Of the function alone: the shared Pulp may take longer to start.
pytestmark = pytest.mark.timeout(600, func_only=True)

# Runs of what patterns repeat, separate or quote, with and without an end that cannot match.
PIECES = [
    "a", "1", " ", "\t", ",", ";", "=", '"', "\\", "/", "//", "@", "-", ":", ".", "(", "[", "{",
    "%", "%41", "%25", "+", "&", "key", "key=", "&key", "&key=1", "?", "#", "a,", "a, ", "a=",
    'a="', '",', '="', 'a="b",', ' ,', "W/", 'W/"', '"a",', "0-", "-1,", "0-0,", "\\a", "\\054",
    "xx", "\x00", "\xe9", "Mon, ", "GMT ", "../", "1:", "token=", "Sun, 06 Nov 1994 08:49:37 GMT",
]  # fmt: skip
WORST = [
    ending[0] + (piece * (SIZE // len(piece))) + ending[1]
    for piece in PIECES
    for ending in (("", ""), ("", "!"), ("a", '"b'), ('"', ""), ("a=", "x y"))
]


def scope(path: str = "/", query: str = "", **headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode("latin-1"),
        "root_path": "",
        "query_string": query.encode("latin-1"),
        "client": ("192.0.2.1", 1),
        "headers": [
            (name.replace("_", "-").encode(), value.encode("latin-1"))
            for name, value in headers.items()
        ],
    }


def every(parse: Any) -> list[Any]:
    return [parse(value) for value in WORST]


def test_access_log_query():
    assert access_log._masked_query("token" * 1000) == "token" * 1000
    every(access_log._masked_query)
    every(access_log._masked)


def test_compared_log_lines():
    every(parse_line)


def test_compared_listings():
    def parse(line: str) -> None:
        parser = ListingParser()
        parser.feed(b"<title>Index of /</title>\n")
        parser.feed(line.encode("utf-8", "replace") + b"\n")

    every(parse)
    for piece in ("<a ", '<a href="', '<a href="" ', 'href="" ', "<a href=x>", '<a href="">x</a> '):
        parse("<a " + piece * (SIZE // len(piece)))


def test_access_log_referer_and_user_agent():
    every(access_log._referer)
    every(access_log._printable)


def test_if_none_match_and_if_match():
    for value in WORST:
        headers = Headers({"if-none-match": value})
        assert evaluate("GET", headers, VALIDATORS) is None
        assert evaluate("GET", Headers({"if-match": value}), VALIDATORS) == 412


def test_if_range_and_dates():
    assert not any(every(parse_http_date))
    for value in WORST:
        assert not if_range_matches(Headers({"if-range": value}), VALIDATORS)


def test_range():
    for value in WORST:
        for header in (value, f"bytes={value}"):
            try:
                ranges = parse_ranges(header, 10)
            except RangeNotSatisfiable:
                continue
            assert ranges is None or ranges


def test_host():
    for value in WORST:
        HOST.fullmatch(value)
        is_origin(f"http://{value}")


def test_cookie_unquoting_equals_pythons():
    make_cookies_linear()
    assert http_cookies._unquote is unquote
    every(lambda value: parse_cookie(f'sessionid="{value}"'))
    assert parse_cookie(r'a="\"b\054\\"; c=d; e="') == {"a": '"b,\\', "c": "d", "e": '"'}
    for value in ("a;b", 'quo"te', "back\\slash", "\x01\xff", "é", ""):
        output = http_cookies.SimpleCookie({"name": value})["name"].coded_value
        assert unquote(output) == value


@pytest.mark.parametrize(
    "name", ["authorization", "cookie", "content_type", "accept", "x_csrftoken", "host"]
)
def test_authentication(name):
    for value in WORST:
        authenticate(scope(**{name: value}))


def test_guard_request():
    distribution = SimpleNamespace(pulp_domain=SimpleNamespace(name="default"))
    for value in WORST:
        seen = GuardRequest(Request(scope(f"/{value}", value)), distribution, value)
        assert seen.path
        assert seen.url.raw_query_string == seen.rel_url.raw_query_string
        assert seen.query is not None and seen.query_string is not None


def test_correlation_id():
    middleware = CorrelationId(lambda *_: None)
    assert not any(every(lambda value: middleware._given(scope(correlation_id=value))))


def test_proxied_headers():
    for value in WORST:
        _request_headers(scope(connection=value, via=value, x_forwarded_for=value))


def test_file_names():
    every(lambda value: content_disposition(value, "attachment"))
    every(files._ARTIFACT.search)


def test_headers_of_remotes():
    for value in WORST:
        headers = CIMultiDict({"Cache-Control": value, "Content-Range": value, "ETag": value})
        metadata_cache.forbids_storing(headers)
        response._ETAG.fullmatch(value)
        response._FIELD_VALUE.fullmatch(value)
        assert not sink._CONTENT_RANGE.fullmatch(f"bytes {value}")
        assert not objects._CONTENT_RANGE.fullmatch(f"bytes {value}")


def test_cache_control_with_an_invalid_member_keeps_the_others():
    value = 'no store, max-age=5, private="a, b", x = "" ,s-maxage=10,,public'
    assert metadata_cache.directives({"Cache-Control": value}) == {
        "max-age": "5",
        "private": "a, b",
        "x": "",
        "s-maxage": "10",
        "public": "",
    }


def test_numbers_of_remotes_are_short():
    assert metadata_cache._seconds("9" * 5000) == 9_999_999_999
    assert metadata_cache._seconds("0" * 5000 + "7") == 7
    assert metadata_cache._seconds("-1") is None
