"""Metrics and access log of a real process, which exports to a real collector."""

import json
import os
import re
import socket
import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.support.collector import Collector, collecting
from tests.support.instance import wait_until
from tests.support.server import Server, serving

BIG = os.urandom(1 << 20) * 64

LOGGER = "pulpcore.content_star.access"
LOG_ON = json.dumps({"dynaconf_merge": True, "loggers": {LOGGER: {"level": "INFO"}}})

LINE = re.compile(
    r"pulp \[(?P<id>[\w-]+)\]: (?P<client>\S+) - - \[(?P<date>[^\]]+)\]"
    r' "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d+) (?P<bytes>\d+)'
    r' "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
    r" (?P<milliseconds>[\d.]+) (?P<source>\S+)"
)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def server(instance, collector) -> Iterator[Server]:
    """A server with access log, metrics and domains."""
    options = {"PULP_LOGGING": f"@json {LOG_ON}", "PULP_DOMAIN_ENABLED": "true"}
    http = ("--http", "pulpcore.content_star.server:HttpProtocol")
    with serving(instance, *http, "--no-access-log", **collector.environ, **options) as running:
        yield running


def logged(server: Server, mark: str) -> re.Match[str]:
    """Return the only line of the access log that contains `mark`."""

    def found() -> list[str]:
        return [line for line in server.said().splitlines() if mark in line]

    wait_until(found, explain=server.said)
    assert len(found()) == 1
    match = LINE.fullmatch(found()[0])
    assert match, found()
    return match


def raw(server: Server, request: bytes, receive_bytes: int = 1 << 16) -> bytes:
    """Send bytes unchanged, receive a part of the response, and disconnect."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.settimeout(300)
        client.connect(("127.0.0.1", httpx.URL(server.url).port))
        client.sendall(request)
        return client.recv(receive_bytes, socket.MSG_WAITALL)


def test_access_log_line_has_all_fields(server, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"0123456789"}))
    given = str(uuid.uuid4())
    headers = {
        "Correlation-ID": given,
        "Referer": "https://example.org/page",
        "User-Agent": "tester/1",
        "X-Forwarded-For": "203.0.113.7",
    }
    response = httpx.get(f"{server.content_url}default/{base}/a.txt?a=b", headers=headers)
    line = logged(server, base)
    assert line["id"] == response.headers["Correlation-ID"] == given
    assert line["client"] == "203.0.113.7"
    assert line["request"] == f"GET /pulp/content/default/{base}/a.txt?a=b HTTP/1.1"
    assert (line["status"], line["bytes"], line["source"]) == ("200", "10", "local")
    assert (line["referer"], line["agent"]) == ("https://example.org/page", "tester/1")
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", line["date"])


@pytest.mark.parametrize(
    ("method", "headers", "status", "size"),
    [
        ("GET", {}, 200, 10),
        ("HEAD", {}, 200, 0),
        ("GET", {"Range": "bytes=2-4"}, 206, 3),
        ("GET", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304, 0),
        ("GET", {"Range": "bytes=10-"}, 416, 0),
    ],
)
def test_access_log_and_metrics_count_the_bytes_sent(
    server, collector, orm, method, headers, status, size
):
    base = orm.distribution(publication=orm.publication({"a.txt": b"0123456789"}))
    counters = {
        "artifacts.size.counter": {"domain_name": "default"},
        "content.sent": {"pulp_type": "file.file", "source": "local"},
    }
    collector.refresh()
    before = {name: collector.total(name, **of) for name, of in counters.items()}
    url = f"{server.content_url}default/{base}/a.txt"
    assert httpx.request(method, url, headers=headers).status_code == status
    collector.refresh()
    after = {name: collector.total(name, **of) for name, of in counters.items()}
    assert {name: after[name] - before[name] for name in counters} == dict.fromkeys(counters, size)
    line = logged(server, base)
    assert (line["status"], line["bytes"]) == (str(status), str(size))


@pytest.mark.parametrize(
    ("method", "headers", "status", "size"),
    [("GET", {}, 200, 10), ("HEAD", {}, 200, 0), ("GET", {"If-None-Match": "{etag}"}, 304, 0)],
)
def test_access_log_and_metrics_count_responses_from_memory(
    server, collector, orm, method, headers, status, size
):
    """Which the server sends without a call of the application."""
    base = orm.distribution(publication=orm.publication({"a.txt": b"0123456789"}))
    url = f"{server.content_url}default/{base}/a.txt"
    for _ in range(3):
        etag = httpx.request(method, url).headers["ETag"]
    counters = {
        "artifacts.size.counter": {"domain_name": "default"},
        "content.sent": {"pulp_type": "file.file", "source": "local"},
    }
    collector.refresh()
    before = {name: collector.total(name, **of) for name, of in counters.items()}
    given = uuid.uuid4().hex
    headers = {name: value.format(etag=etag) for name, value in headers.items()}
    headers |= {"X-Forwarded-For": "203.0.113.7", "Correlation-ID": given}
    response = httpx.request(method, f"{url}?mark-{given}", headers=headers)
    assert response.status_code == status
    collector.refresh()
    after = {name: collector.total(name, **of) for name, of in counters.items()}
    assert {name: after[name] - before[name] for name in counters} == dict.fromkeys(counters, size)
    line = logged(server, f"mark-{given}")
    assert (line["status"], line["bytes"], line["source"]) == (str(status), str(size), "local")
    assert line["client"] == "203.0.113.7"
    assert line["id"] == response.headers["Correlation-ID"] == given


def test_access_log_of_head_of_an_error_has_0_bytes(server, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    assert httpx.head(f"{server.content_url}default/{base}/nope").status_code == 404
    assert logged(server, base)["bytes"] == "0"


def test_access_log_and_metrics_of_client_disconnect_count_the_bytes_sent(server, collector, orm):
    base = orm.distribution(publication=orm.publication({"big.bin": BIG}))
    collector.refresh()
    before = collector.total("artifacts.size.counter")
    path = f"/pulp/content/default/{base}/big.bin"
    taken = raw(server, f"GET {path} HTTP/1.1\r\nHost: pulp\r\n\r\n".encode())
    sent = int(logged(server, base)["bytes"])
    # The client's bytes and those in the buffers of sockets.
    assert len(taken) / 2 < sent < len(BIG) / 4
    collector.refresh()
    assert collector.total("artifacts.size.counter") - before == sent


@pytest.mark.parametrize(
    ("method", "path", "route", "status", "pulp_type"),
    [
        ("GET", "default/{base}/a.txt", "stream_content", "2xx", "file.file"),
        ("GET", "default/{base}/", "stream_content", "2xx", "file.file"),
        ("GET", "default/{base}", "stream_content", "3xx", "file.file"),
        ("GET", "default/{base}/nope", "stream_content", "4xx", "file.file"),
        ("GET", "default/{base}-nope/", "stream_content", "4xx", "none"),
        ("HEAD", "default/", "list_distributions", "2xx", "none"),
        ("POST", "default/", "unknown", "4xx", "none"),
        ("GET", "livez", "livez", "2xx", "none"),
        ("GET", "readyz", "readyz", "2xx", "none"),
    ],
)
def test_metrics_have_durations_and_counts_by_route_and_status(
    server, collector, orm, method, path, route, status, pulp_type
):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    duration = {"http.method": method, "http.status_code": status, "http.route": route}
    count = {"pulp_type": pulp_type, "http.status_code": status}

    def totals() -> tuple[int, int]:
        return (
            collector.total("content.request_duration", **duration),
            collector.total("content.requests", **count),
        )

    collector.refresh()
    before = totals()
    httpx.request(method, server.content_url + path.format(base=base))
    collector.refresh()
    assert totals() == (before[0] + 1, before[1] + 1)
    assert collector.metrics()["content.request_duration"].unit == "ms"
    name = f"{server.process.pid}@{socket.gethostname()}"
    assert {found["worker.name"] for found, _ in collector.points("content.requests")} == {name}


def test_metric_cache_enabled_is_1(server, collector):
    def enabled() -> int:
        collector.refresh()
        return collector.total("content_star.cache.enabled")

    wait_until(lambda: enabled() == 1)


def test_metrics_attributes_have_no_values_of_clients(server, collector, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    for number in range(20):
        url = f"{server.content_url}default/{base}-{number}/{number}"
        httpx.get(url, headers={"User-Agent": str(number)})
    collector.refresh()
    values = [
        value for found, _ in collector.points("content.requests") for value in found.values()
    ]
    assert not any(base in value for value in values)


def test_access_log_escapes_values_of_clients(server):
    mark = uuid.uuid4().hex
    raw(
        server,
        b"GET /pulp/content/%0a"
        + mark.encode()
        + b'?q=%0a"pulp HTTP/1.1\r\nHost: pulp\r\nConnection: close\r\n'
        b'User-Agent: x" 200 0 "\\\t\xe9\r\nReferer: "-" 1\r\n'
        b'X-Forwarded-For: 1.2.3.4 - - "forged"\r\n\r\n',
    )
    line = logged(server, mark)
    assert line["request"] == rf"GET /pulp/content/%0a{mark}?q=%0a\"pulp HTTP/1.1"
    assert line["agent"] == r"x\" 200 0 \"\\\x09\xe9"
    assert line["referer"] == r"\"-\" 1"
    assert line["client"] == r"1.2.3.4\x20-\x20-\x20\"forged\""


def test_access_log_ignores_x_forwarded_for_of_untrusted_proxies(instance):
    arguments = ("--no-access-log", "--forwarded-allow-ips", "192.0.2.1")
    app, log_on = "pulpcore.routing:content_application", f"@json {LOG_ON}"
    with serving(instance, *arguments, app=app, PULP_LOGGING=log_on) as server:
        httpx.get(f"{server.content_url}?mark", headers={"X-Forwarded-For": "203.0.113.7"})
        assert logged(server, "?mark")["client"] == "127.0.0.1"


def test_access_log_masks_credentials_in_queries(server, orm):
    base = orm.distribution()
    query = "expires=5&validate_token=S3CR3T:S3CR3T&X-Amz-Signature=S3CR3T&sig=S3CR3T%3D"
    referer = f"https://me:S3CR3T@example.org/?a=1&next=%2Fx%3Fvalidate_token%3DS3CR3T&{query}"
    httpx.get(f"{server.content_url}default/{base}/a?{query}", headers={"Referer": referer})
    line = logged(server, base)
    masked = "expires=5&validate_token=***&X-Amz-Signature=***&sig=***"
    assert line["request"] == f"GET /pulp/content/default/{base}/a?{masked} HTTP/1.1"
    assert line["referer"] == f"https://***@example.org/?a=1&next=***&{masked}"
    assert "S3CR3T" not in server.said()


def test_metrics_are_exported_at_shutdown(instance):
    with collecting() as collector:
        environ = collector.environ | {"OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        with serving(instance, app="pulpcore.routing:content_application", **environ) as server:
            assert httpx.get(server.content_url).status_code == 200
            assert not collector.exports
            server.process.terminate()
            server.process.wait(300)
        assert collector.total("content.requests", **{"http.status_code": "2xx"}) >= 1


def test_access_log_is_off_by_default(instance, content):
    """The session's instance runs with default settings."""
    assert content.get("").status_code == 200
    lines = (instance.state.logs / "uvicorn.log").read_text().splitlines()
    assert not [line for line in lines if LINE.fullmatch(line)]


def test_metrics_without_a_reachable_collector_do_not_disturb_the_server(instance):
    with collecting() as collector:
        environ = collector.environ
    with serving(instance, app="pulpcore.routing:content_application", **environ) as server:
        assert httpx.get(server.content_url).status_code == 200
        server.process.terminate()
        server.process.wait(300)
