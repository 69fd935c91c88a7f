"""nginx mirrors requests to our content app, with deploy/nginx/shadow.conf."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.support.instance import Instance, wait_until
from tests.support.nginx import (
    DEPLOY,
    NGINX,
    Nginx,
    replace_all,
    running_nginx,
    temporary_folder,
)
from tests.support.orm import Orm
from tests.support.server import Server, free_port, serving_theirs
from tests.support.tampering import Answer, Seen, tampering

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx")]

CONTENT = "/pulp/content/"
FILES = {
    "a.txt": b"0123456789",
    "dir/b": b"b",
    "sp ace/é%41#?&;.bin": b"odd name",
    "large": b"x" * 3_000_000,
}
CONDITION = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
REQUESTS: list[tuple[str, str, dict[str, str], bytes]] = [
    ("GET", "a.txt", {}, b""),
    ("HEAD", "a.txt", {}, b""),
    ("GET", "a.txt", {"Range": "bytes=2-4"}, b""),
    ("GET", "a.txt", {"Range": "bytes=100-"}, b""),
    ("GET", "a.txt", CONDITION, b""),
    ("GET", "a.txt", {}, b"a body"),
    ("GET", "a.txt?a=%2F&b", {}, b""),
    ("GET", "sp%20ace/%C3%A9%2541%23%3F&;.bin", {}, b""),
    ("GET", "large", {}, b""),
    ("GET", "dir/", {}, b""),
    ("GET", "dir", {}, b""),
    ("GET", "nope", {}, b""),
]


@dataclass
class Shadow:
    """nginx in front of upstream's app, which mirrors to another."""

    nginx: Nginx
    old: Server
    base: str

    def get(self, client: httpx.Client, origin: str, number: int) -> httpx.Response:
        method, path, headers, body = REQUESTS[number]
        url = f"{origin}{CONTENT}{self.base}/{path}"
        return client.request(method, url, headers=headers, content=body or None)

    def ask(self) -> list[httpx.Response]:
        """Send the requests to nginx, one after the other on one connection."""
        limits = httpx.Limits(max_connections=1)
        with httpx.Client(limits=limits) as client:
            return [self.get(client, self.nginx.url, number) for number in range(len(REQUESTS))]

    def expect_answers_of_old(self, responses: list[httpx.Response]) -> None:
        """Compare responses with those that upstream's app gives without nginx."""
        with httpx.Client() as client:
            for number, response in enumerate(responses):
                direct = self.get(client, self.old.url, number)
                assert comparable(response) == comparable(direct), REQUESTS[number]

    def mirrored(self) -> dict[str, str]:
        """Return the new app's status of each request, by id."""
        lines = (self.nginx.folder / "shadow.log").read_text().splitlines()
        return {line.split()[0]: line.split()[1] for line in lines}

    def served(self) -> dict[str, str]:
        """Return the old app's status of each request, by id."""
        log = (self.nginx.folder / "pulp.log").read_text()
        return {match[2]: match[1] for match in re.finditer(r'" (\d{3}) .* id=(\w+)\n', log)}


def comparable(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers of the content app, and body."""
    proxied = ("date", "server", "connection", "correlation-id", "transfer-encoding")
    headers = {name: value for name, value in response.headers.items() if name not in proxied}
    headers["location"] = headers.get("location", "").replace(response.url.netloc.decode(), "")
    return response.status_code, headers, response.content


@pytest.fixture(scope="module")
def old(instance: Instance) -> Iterator[Server]:
    with serving_theirs(instance) as server:
        yield server


@pytest.fixture(scope="module")
def base(module_orm: Orm) -> str:
    return module_orm.distribution(publication=module_orm.publication(FILES))


Shadowing = Callable[..., AbstractContextManager[Shadow]]


@pytest.fixture
def shadowing(old: Server, base: str) -> Shadowing:
    """Return a context manager that runs nginx with a new app, which gets all requests."""
    return partial(_shadowing, old, base)


@contextmanager
def _shadowing(old: Server, base: str, new: str, limit: int = 100) -> Iterator[Shadow]:
    with temporary_folder() as folder:
        port = free_port()
        values = {
            "127.0.0.1:24816": old.url.removeprefix("http://"),
            "127.0.0.1:24818": new.removeprefix("http://"),
            "127.0.0.1:24819": f"127.0.0.1:{free_port()}",
            "listen 8080": f"listen 127.0.0.1:{port}",
            "/var/log/nginx/": f"{folder}/",
            "10% 1;": "100% 1;",
            "*   0;": "",
            "limit_conn shadow 100": f"limit_conn shadow {limit}",
        }
        http = replace_all((DEPLOY / "nginx" / "shadow.conf").read_text(), values)
        with running_nginx(folder, port, http) as nginx:
            yield Shadow(nginx, old, base)


def test_mirrored_requests_get_the_status_of_the_live_ones(
    shadowing: Shadowing, instance: Instance
) -> None:
    with shadowing(instance.url) as shadow:
        shadow.expect_answers_of_old(shadow.ask())
        wait_until(lambda: len(shadow.mirrored()) == len(REQUESTS), explain=shadow.nginx.errors)
        assert shadow.mirrored() == shadow.served()
        assert {"200", "206", "301", "304", "404", "416"} == set(shadow.mirrored().values())


def test_mirrored_requests_are_the_live_ones_but_for_their_body(
    shadowing: Shadowing, instance: Instance, base: str
) -> None:
    with tampering(instance.url) as new, shadowing(new.url) as shadow:
        client = {"X-Forwarded-For": "203.0.113.7", "Host": "pulp.example.org"}
        url = f"{shadow.nginx.url}{CONTENT}{base}/a%2Etxt?a=%2F"
        httpx.request("GET", url, headers={**client, "Range": "bytes=1-2"}, content=b"body")
        httpx.post(url)
        httpx.head(url)
        wait_until(lambda: len(new.seen) == 2, explain=shadow.nginx.errors)
        get, head = new.seen
        assert (get.method, head.method) == ("GET", "HEAD")
        assert get.target == f"{CONTENT}{base}/a%2Etxt?a=%2F"
        assert get.headers["Host"] == "pulp.example.org"
        assert get.headers["X-Forwarded-For"] == "203.0.113.7, 127.0.0.1"
        assert get.headers["Range"] == "bytes=1-2"
        assert "Content-Length" not in get.headers
        assert "X-CLIENT-CERT" not in get.headers
        assert get.headers["Correlation-ID"] in shadow.served()


def hang(release: threading.Event, seen: Seen, answer: Answer) -> None:
    release.wait()


def fail(release: threading.Event, seen: Seen, answer: Answer) -> None:
    answer.status, answer.body = 500, b"Server got itself in trouble"
    answer.headers = {"content-length": str(len(answer.body))}


def cut(release: threading.Event, seen: Seen, answer: Answer) -> None:
    answer.cut = True


def refuse(release: threading.Event, seen: Seen, answer: Answer) -> None:
    raise ConnectionError


@pytest.mark.parametrize("fault", [hang, fail, cut, refuse])
def test_live_responses_are_unchanged_by_a_fault_of_the_new_app(
    shadowing: Shadowing, instance: Instance, fault: Callable[..., None]
) -> None:
    release = threading.Event()
    with tampering(instance.url, partial(fault, release)) as new, shadowing(new.url) as shadow:
        try:
            responses = shadow.ask()
            wait_until(lambda: len(new.seen) == len(REQUESTS), explain=shadow.nginx.errors)
            if fault is hang:
                assert shadow.mirrored() == {}, "the new app has answered no request yet"
        finally:
            release.set()
        wait_until(lambda: len(shadow.mirrored()) == len(REQUESTS), explain=shadow.nginx.errors)
        shadow.expect_answers_of_old(responses)
        if fault in (fail, refuse):
            assert set(shadow.mirrored().values()) == {"500" if fault is fail else "502"}


def test_live_responses_are_unchanged_without_the_new_app(shadowing: Shadowing) -> None:
    with shadowing(f"http://127.0.0.1:{free_port()}") as shadow:
        shadow.expect_answers_of_old(shadow.ask())
        wait_until(lambda: len(shadow.mirrored()) == len(REQUESTS), explain=shadow.nginx.errors)
        assert set(shadow.mirrored().values()) == {"502"}


def test_mirrored_requests_that_hang_are_bounded(shadowing: Shadowing, instance: Instance) -> None:
    release = threading.Event()
    with (
        tampering(instance.url, partial(hang, release)) as new,
        shadowing(new.url, limit=2) as shadow,
    ):
        try:
            shadow.expect_answers_of_old(shadow.ask())
            assert len(new.seen) <= 2
        finally:
            release.set()


def test_mirrored_response_is_closed_after_its_headers(shadowing: Shadowing, base: str) -> None:
    """A file is not sent twice: the new app cannot send a body that has no end."""
    closed = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(65536))
            except OSError:
                closed.set()

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with shadowing(f"http://127.0.0.1:{server.server_port}") as shadow:
            response = httpx.get(f"{shadow.nginx.url}{CONTENT}{base}/a.txt")
            assert response.content == FILES["a.txt"]
            assert closed.wait(300), shadow.nginx.errors()
            wait_until(shadow.mirrored)
            assert list(shadow.mirrored().values()) == ["200"]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_compare_replays_the_log_of_the_live_requests(
    shadowing: Shadowing, instance: Instance
) -> None:
    with shadowing(instance.url) as shadow:
        shadow.ask()
        log = shadow.nginx.folder / "pulp.log"
        completed = instance.star(
            *("compare", shadow.old.url, instance.url, "--access-log", str(log), "--rate", "0"),
            check=False,
        )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{len(REQUESTS)} requests to each" in completed.stdout
    assert "range 2" in completed.stdout
