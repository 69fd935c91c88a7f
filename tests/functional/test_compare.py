"""`pulp-star compare` with servers that differ in one thing, and with input that is no good."""

import contextlib
import gzip
import http.server
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from pulpcore.content_star.cli.compare.access_log import parse_line
from tests.support.certificates import Authority
from tests.support.compare import Run, run_compare
from tests.support.instance import Instance, pulp_star, wait_until
from tests.support.orm import Orm
from tests.support.server import free_port
from tests.support.tampering import Answer, Seen, Tamper, tampering

pytestmark = pytest.mark.slow

DATA = b"0123456789" * 50
FILES = {"a.txt": DATA, "dir/b.txt": b"b", "dir/c.txt": b"cc", "page/index.html": b"<p>page</p>"}


@pytest.fixture(scope="module")
def base(instance: Instance) -> Iterator[str]:
    """The base path of a distribution with the files."""
    orm = Orm()
    yield orm.distribution(publication=orm.publication(FILES))
    orm.cleanup()


@pytest.fixture
def compare(instance: Instance, tmp_path: Path) -> Callable[..., Run]:
    """Run `pulp-star compare` with this instance as the old server, or with another one."""

    def run(new: str, *arguments: str, old: str = "") -> Run:
        return run_compare(tmp_path / "report.json", old or instance.url, new, *arguments)

    return run


@pytest.fixture
def urls(base: str, tmp_path: Path) -> Callable[..., str]:
    """Write a list of paths below the distribution."""

    def write(*paths: str) -> str:
        file = tmp_path / "urls"
        file.write_text("".join(f"{base}/{path}\n" for path in paths))
        return str(file)

    return write


def is_get(seen: Seen, path: str) -> bool:
    plain = not {"Range", "If-None-Match"} & set(seen.headers)
    return seen.method == "GET" and plain and seen.target.endswith(path)


def changes(path: str, change: Callable[[Answer], None]) -> Tamper:
    """Change the responses to plain GETs of a path."""

    def tamper(seen: Seen, answer: Answer) -> None:
        if is_get(seen, path):
            change(answer)

    return tamper


def header(name: str, value: str | None) -> Callable[[Answer], None]:
    def change(answer: Answer) -> None:
        answer.headers.pop(name, None)
        if value is not None:
            answer.headers[name] = value

    return change


def one_byte(answer: Answer) -> None:
    answer.body = b"x" + answer.body[1:]


def one_entry_less(answer: Answer) -> None:
    lines = answer.body.splitlines(keepends=True)
    answer.body = b"".join(line for line in lines if b"c.txt" not in line)
    answer.headers["content-length"] = str(len(answer.body))


def one_size_changed(answer: Answer) -> None:
    answer.body = answer.body.replace(b"2 Bytes", b"3 Bytes")
    answer.headers["content-length"] = str(len(answer.body))


def cut(answer: Answer) -> None:
    answer.cut = True


def failing(answer: Answer) -> None:
    answer.status, answer.body = 500, b"Server got itself in trouble"
    answer.headers = {"content-type": "text/plain", "content-length": str(len(answer.body))}


def html_error(answer: Answer) -> None:
    answer.body = b"<h1>Not found</h1>"
    answer.headers |= {"content-type": "text/html", "content-length": str(len(answer.body))}


def test_alike_servers_exit_0(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance
) -> None:
    with tampering(instance.url) as proxy:
        run = compare(proxy.url, "--urls", urls("a.txt", "dir/", "dir", "nope", "page/"))
    assert (run.code, run.titles) == (0, []), run.out
    assert "Alike: " in run.out
    requests = run.report["requests"]
    assert requests == {"GET": 5, "HEAD": 5, "range": 2, "conditional": 2}
    assert run.report["identical"] == sum(requests.values())
    assert {seen.method for seen in proxy.seen} == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("path", "change", "title"),
    [
        ("a.txt", header("content-type", "text/html"), "header content-type of 200 for GET"),
        ("a.txt", header("content-disposition", None), "header content-disposition of 200 for GET"),
        ("a.txt", header("etag", f'"{"0" * 64}"'), "header etag of 200 for GET"),
        ("a.txt", header("x-extra", "1"), "header x-extra of 200 for GET"),
        ("a.txt", one_byte, "body of 200 for GET"),
        ("a.txt", cut, "incomplete response (new) for GET"),
        ("a.txt", failing, "status 200 -> 500 for GET"),
        ("dir/", one_entry_less, "entries of a listing of 200 for GET"),
        ("dir/", one_size_changed, "entries of a listing of 200 for GET"),
        ("dir", header("location", "/elsewhere/"), "header location of 301 for GET"),
        ("nope", html_error, "kind of error body of 404 for GET"),
    ],
)
def test_one_difference_is_found(
    compare: Callable[..., Run],
    urls: Callable[..., str],
    instance: Instance,
    path: str,
    change: Callable[[Answer], None],
    title: str,
) -> None:
    with tampering(instance.url, changes(path, change)) as proxy:
        run = compare(proxy.url, "--urls", urls("a.txt", "dir/", "dir", "nope"))
        assert run.code == 1, run.out
        assert title in run.titles, run.titles
        assert f"DIFFERENT  {title}: " in run.out
        old, new = (shell(line) for line in run.report["differences"][title]["example"]["curl"])
        assert old != new


def shell(command: str) -> str:
    """Return what a command of the report prints, without the date."""
    words = shlex.split(command)
    assert words[0] == "curl"
    completed = subprocess.run(
        command, shell=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    lines = (completed.stdout + completed.stderr).splitlines()
    ignored = ("date:", "server:", "correlation-id:")
    return "\n".join(line for line in lines if not line.lower().startswith(ignored))


@pytest.mark.parametrize(
    ("applies", "change", "title"),
    [
        (lambda seen: seen.method == "HEAD", header("content-length", "499"), "content-length of 200"),  # noqa: E501
        (lambda seen: "Range" in seen.headers, one_byte, "body of 206 for range"),
        (lambda seen: "If-None-Match" in seen.headers, header("etag", '"x"'), "etag of 304"),
    ],
)  # fmt: skip
def test_difference_of_a_variant_is_found(
    compare: Callable[..., Run],
    urls: Callable[..., str],
    instance: Instance,
    applies: Callable[[Seen], bool],
    change: Callable[[Answer], None],
    title: str,
) -> None:
    def tamper(seen: Seen, answer: Answer) -> None:
        if applies(seen) and seen.target.endswith("a.txt"):
            change(answer)

    with tampering(instance.url, tamper) as proxy:
        run = compare(proxy.url, "--urls", urls("a.txt"))
    assert run.code == 1, run.out
    assert len(run.titles) == 1
    assert title in run.titles[0]


def log_line(target: str, end: str = "", method: str = "GET") -> str:
    return f'10.0.0.1 - - [28/Nov/2026:11:00:00 +0000] "{method} {target} HTTP/1.1" 200 5 "-" "dnf"{end}\n'  # noqa: E501


def test_one_500_in_a_thousand_is_found(
    compare: Callable[..., Run], base: str, instance: Instance, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    target = f"/pulp/content/{base}/a.txt"
    log.write_text("".join(log_line(f"{target}?n={number}") for number in range(1000)))

    def tamper(seen: Seen, answer: Answer) -> None:
        if seen.method == "GET" and seen.target.endswith("?n=777"):
            failing(answer)

    with tampering(instance.url, tamper) as proxy:
        run = compare(proxy.url, "--access-log", str(log), "--concurrency", "8")
    assert run.code == 1
    assert run.report["requests"] == {"GET": 1000}
    [(title, group)] = run.report["differences"].items()
    assert (title, group["count"]) == ("status 200 -> 500 for GET", 1)
    assert group["example"]["target"] == f"{base}/a.txt?n=777"
    assert proxy.most_at_once <= 8


def test_content_that_changes_is_not_a_fault(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance
) -> None:
    """Both get new content between the request to the one and to the other."""
    asked: list[str] = []

    def changing(name: str) -> Tamper:
        def tamper(seen: Seen, answer: Answer) -> None:
            if is_get(seen, "a.txt"):
                asked.append(name)
                if len(asked) > 1:
                    one_byte(answer)

        return tamper

    with (
        tampering(instance.url, changing("old")) as old,
        tampering(instance.url, changing("new")) as new,
    ):
        run = compare(new.url, "--urls", urls("a.txt"), old=old.url)
    assert run.report["changed"] == 1, run.out
    assert "body of 200 for GET" not in run.titles


def test_access_log_replays_order_methods_and_headers(
    compare: Callable[..., Run], base: str, instance: Instance, tmp_path: Path
) -> None:
    path = f"/pulp/content/{base}/a.txt"
    log = tmp_path / "access.log.gz"
    lines = [
        log_line(path, ' range="bytes=2-4" if_none_match="-"'),
        log_line(path, method="HEAD"),
        log_line(path, method="POST"),
        log_line("/pulp/api/v3/status/"),
        log_line(path, r' if_none_match="\"x\""'),
        log_line(f"{path}?expires=1&validate_token=***"),
        "an error of a worker\n",
    ]
    log.write_bytes(gzip.compress("".join(lines).encode()))
    with tampering(instance.url) as old:
        run = compare(instance.url, "--access-log", str(log), "--concurrency", "1", old=old.url)
    assert run.code == 0, run.out
    sent = [
        (seen.method, seen.headers.get("Range"), seen.headers.get("If-None-Match"))
        for seen in old.seen
        if seen.target == path
    ]
    assert sent == [("GET", "bytes=2-4", None), ("HEAD", None, None), ("GET", None, '"x"')]
    assert sorted(run.report["skipped"].values()) == [1, 1, 1, 1]


REAL_LINES = {
    "nginx": '1.2.3.4 - - [28/Nov/2026:11:00:00 +0000] "GET /a/b%20c?d=e HTTP/1.1" 200 5 "-" "dnf"',
    "nginx user": '1.2.3.4 - b [28/Nov/2026:11:00:00 +0000] "GET /a/b%20c?d=e HTTP/2.0" 404 5 "-"',
    "apache": '::1 - - [28/Nov/2026:11:00:00 +0000] "GET /a/b%20c?d=e HTTP/1.1" 304 - "-" "q\\"x"',
    "apache common": '::1 - - [28/Nov/2026:11:00:00 +0000] "GET /a/b%20c?d=e HTTP/1.1" 304 -',
    "gunicorn": "127.0.0.1 - - [28/Nov/2026:11:00:00 +0000] "
    '"GET /a/b%20c?d=e HTTP/1.1" 200 58 "-" "curl/7.88.1"',
    "pulpcore-content": "pulp [0123]: aiohttp.access:INFO: 127.0.0.1 [28/Nov/2026:11:00:00 +0000] "
    '"GET /a/b%20c?d=e HTTP/1.1" 200 313 "-" "curl/7.88.1"',
    "ours": "pulp [0123]: pulpcore.content_star.access:INFO: 127.0.0.1 - - "
    '[28/Nov/2026:11:00:00 +0000] "GET /a/b%20c?d=e HTTP/1.1" 200 5 "-" "curl/8" 2.1 local',
}  # fmt: skip


@pytest.mark.parametrize("line", REAL_LINES.values(), ids=REAL_LINES)
def test_access_log_line_is_read(line: str) -> None:
    request = parse_line(line)
    assert request is not None
    assert (request.method, request.target, request.headers) == ("GET", "/a/b%20c?d=e", {})


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (r"/a\x22b", "/a%22b"),
        (r"/a\"b", "/a%22b"),
        (r"/a\\b", "/a%5Cb"),
        (r"/\xC3\xA9", "/%C3%A9"),
        ("/é", "/%E9"),
        ("/a/../b//c", "/a/../b//c"),
    ],
)
def test_access_log_target_is_unescaped(target: str, expected: str) -> None:
    request = parse_line(f'- - - [x] "GET {target} HTTP/1.1" 200 5')
    assert request is not None
    assert request.target == expected


def test_reports_are_well_formed(
    compare: Callable[..., Run], base: str, instance: Instance, tmp_path: Path
) -> None:
    target = f"{base}/%3Cscript%3E"
    odd = changes(target, header("x-odd", "<script>\x08&"))
    (tmp_path / "urls").write_text(f"{target}?validate_token=secret-of-mine\n")
    junit, page = tmp_path / "junit.xml", tmp_path / "report.html"
    with tampering(
        instance.url, lambda seen, answer: odd(Seen("GET", target, {}, 0), answer)
    ) as new:
        run = compare(
            new.url,
            *("--urls", str(tmp_path / "urls"), "--junit", str(junit), "--html", str(page)),
        )
    assert run.code == 1, run.out
    suite = ElementTree.fromstring(junit.read_text())
    assert int(suite.attrib["failures"]) == len(suite.findall(".//failure")) == len(run.titles) > 0
    assert "<script>" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    assert run.titles[0] in page.read_text()
    for text in (run.out, junit.read_text(), page.read_text(), json.dumps(run.report)):
        assert "secret-of-mine" not in text
    assert {"p50", "p99"} == set(run.report["latency_ms"]["GET"]["old"])


def test_password_is_in_no_report(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance, tmp_path: Path
) -> None:
    page, state = tmp_path / "report.html", tmp_path / "state"
    run = compare(
        instance.url.replace("127.0.0.1", "localhost"),
        *("--urls", urls("a.txt"), "--username", "admin", "--password", instance.password),
        *("--html", str(page), "--resume", str(state), "--header", "X-Key: key-of-mine"),
    )
    assert run.code == 0, run.out
    for text in (run.out, page.read_text(), state.read_text(), json.dumps(run.report)):
        assert instance.password not in text
        assert "key-of-mine" not in text


def test_server_that_dies_is_exit_2_and_the_run_is_resumed(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance, tmp_path: Path
) -> None:
    state, port = tmp_path / "state", free_port()
    paths = [f"a.txt?n={number}" for number in range(40)]
    arguments = ("--urls", urls(*paths), "--resume", str(state), "--concurrency", "2")
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:

        def dies(seen: Seen, answer: Answer) -> None:
            if seen.target.endswith("n=20"):
                threading.Thread(target=stack.close, daemon=True).start()
                raise ConnectionError

        proxy = stack.enter_context(tampering(instance.url, dies, port))
        first = compare(url, *arguments)
    assert first.code == 2, first.out
    assert f"Incomplete: {url}/pulp/content/ cannot be reached" in first.out
    done = first.report["requests"]["GET"]
    assert 0 < done < 40
    with tampering(instance.url, port=port) as proxy:
        second = compare(url, *arguments)
    assert second.code == 0, second.out
    assert second.report["requests"] == dict.fromkeys(["GET", "HEAD", "range", "conditional"], 40)
    assert (
        sum(is_get(seen, "") or is_get(seen, seen.target) for seen in proxy.seen) <= 42 - done + 1
    )
    with tampering(instance.url, port=port) as proxy:
        third = compare(url, *arguments)
    assert (third.code, proxy.seen) == (0, [])
    assert third.report["requests"] == second.report["requests"]


def test_interrupted_run_keeps_its_results(
    urls: Callable[..., str], instance: Instance, tmp_path: Path
) -> None:
    state, report = tmp_path / "state", tmp_path / "report.json"
    paths = [f"a.txt?n={number}" for number in range(5000)]
    with tampering(instance.url) as proxy:
        process = instance.spawn(
            pulp_star(
                *("compare", instance.url, proxy.url, "--urls", urls(*paths), "--rate", "0"),
                *("--resume", str(state), "--json", str(report)),
            )
        )
        wait_until(lambda: len(proxy.seen) > 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 2
    found = json.loads(report.read_text())
    assert found["incomplete"] == "interrupted"
    assert 0 < found["requests"]["GET"] < 5000
    assert json.loads(state.read_text())["position"] == found["requests"]["GET"]


def test_resume_refuses_requests_that_have_changed(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tampering(instance.url) as proxy:
        arguments = (proxy.url, "--resume", str(state))
        many = urls(*(f"a.txt?n={number}" for number in range(2000)))
        assert compare(*arguments, "--urls", many, "--time", "0.5").report["complete"] is False
        changed = urls(*(f"a.txt?m={number}" for number in range(2000)))
        run = compare(*arguments, "--urls", changed)
        assert run.code == 2
        assert "The requests have changed since" in run.out
        run = compare(*arguments, "--urls", changed, "--fetch")
        assert run.code == 2
        assert "belongs to a run with other servers, sources or options" in run.out


def test_rate_is_not_exceeded(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance
) -> None:
    with tampering(instance.url) as old, tampering(instance.url) as new:
        run = compare(
            new.url,
            "--urls",
            urls(*["a.txt"] * 5),
            "--rate",
            "20",
            "--concurrency",
            "8",
            old=old.url,
        )
    assert run.code == 0, run.out
    for proxy in (old, new):
        spent = proxy.seen[-1].at - proxy.seen[0].at
        assert (len(proxy.seen) - 1) / spent < 20 * 1.2


class Endless(http.server.BaseHTTPRequestHandler):
    """Serves a file of 400 MB, and a listing of 60,000 entries."""

    protocol_version = "HTTP/1.1"
    size = 400_000_000

    def do_HEAD(self) -> None:
        self.send_response(200)
        is_file = self.path.endswith("big")
        kind, size = ("application/octet-stream", self.size) if is_file else ("text/html", None)
        self.send_header("Content-Type", kind)
        self.send_header(*(("Content-Length", str(size)) if size else ("Connection", "close")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if self.path.endswith("big"):
            for _ in range(self.size // 1_000_000):
                self.wfile.write(bytes(1_000_000))
            return
        self.wfile.write(b"<html><head><title>Index of /</title></head>\n")
        for number in range(60_000):
            name = f"a-file-with-a-name-{number}.rpm"
            self.wfile.write(f'<a href="{name}">{name}</a>  \n'.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def plain_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_large_bodies_and_listings_need_little_memory(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("big\nlisting/\n")
    code = (
        "import re\n"
        "from pathlib import Path\n"
        "status = Path('/proc/self/status')\n"
        "from pulpcore.content_star.cli import main\n"
        "try:\n    main('pulp-star')\n"
        "finally:\n    print('peak', re.findall(r'VmHWM:\\s+(\\d+) kB', status.read_text())[0])\n"
    )
    with plain_server(Endless) as old, plain_server(Endless) as new:
        completed = subprocess.run(
            [sys.executable, "-c", code, "compare", old, new, "--urls", str(tmp_path / "urls")],
            capture_output=True,
            text=True,
        )
    # `range` is ignored by the server, alike.
    assert completed.returncode == 0, completed.stdout + completed.stderr
    peak = int(completed.stdout.rsplit("peak ", 1)[1])
    assert peak < 100_000, f"{peak} KiB"


class NoPulp(http.server.BaseHTTPRequestHandler):
    """A web site."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>Welcome</title>")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def one_error(run: Run) -> str:
    """Return the only line of a run that could not compare."""
    assert run.code == 2, run.out
    line = run.out.strip().splitlines()[-1]
    assert "Traceback" not in run.out
    assert line.startswith("Error: "), run.out
    return line


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/", "is no URL"),
        ("nonsense", "is no URL"),
        ("http://user:word@127.0.0.1/", "credentials belong to --username"),
        ("http://127.0.0.1:9/", "cannot be reached"),
        ("http://nowhere.invalid/", "cannot be reached"),
    ],
)
def test_wrong_url_is_one_line(
    compare: Callable[..., Run], urls: Callable[..., str], url: str, message: str
) -> None:
    assert message in one_error(compare(url, "--urls", urls("a.txt")))


def test_url_of_another_site_is_one_line(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance
) -> None:
    with plain_server(NoPulp) as site:
        line = one_error(compare(site, "--urls", urls("a.txt")))
    assert f"NEW, {site}/pulp/content/, is not the root of a Pulp's content app" in line
    assert "is the same" in one_error(compare(instance.url, "--urls", urls("a.txt"))).replace(
        "are the same", "is the same"
    )


def test_expired_credentials_are_one_line(compare: Callable[..., Run], instance: Instance) -> None:
    with tampering(instance.url) as proxy:
        line = one_error(compare(proxy.url, "--username", "admin", "--password", "old"))
    assert "refuses the credentials (401)" in line


def test_api_that_is_not_there_is_one_line(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance
) -> None:
    with tampering(instance.url) as proxy, plain_server(NoPulp) as site:
        assert "REST API" in one_error(compare(proxy.url, "--api", site))
        assert "REST API" in one_error(compare(proxy.url, "--api", "http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The access log is empty"),
        (b'{"some": "json"}\n' * 3, "is in an unknown format"),
        (b"1,2,3\n" * 5000, "is in an unknown format"),
        (gzip.compress(log_line("/pulp/content/x").encode())[:-9], "is not a complete gzip file"),
        (log_line("/other/").encode(), "Nothing was compared."),
        (None, "cannot be read: No such file or directory"),
    ],
    ids=["empty", "json", "csv", "cut-short", "other-paths", "missing"],
)
def test_bad_access_log_is_one_line(
    compare: Callable[..., Run],
    instance: Instance,
    tmp_path: Path,
    content: bytes | None,
    message: str,
) -> None:
    log = tmp_path / "access.log"
    if content is not None:
        log.write_bytes(content)
    with tampering(instance.url) as proxy:
        run = compare(proxy.url, "--access-log", str(log))
    assert run.code == 2
    assert message in run.out
    assert "Traceback" not in run.out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": "x"}', "nonsense"])
def test_bad_resume_file_is_one_line(
    compare: Callable[..., Run],
    urls: Callable[..., str],
    instance: Instance,
    tmp_path: Path,
    content: str,
) -> None:
    state = tmp_path / "state"
    state.write_text(content)
    with tampering(instance.url) as proxy:
        run = compare(proxy.url, "--urls", urls("a.txt"), "--resume", str(state))
    assert "cannot be continued" in one_error(run)
    assert state.read_text() == content


def test_urls_of_standard_input(compare: Callable[..., Run], base: str, instance: Instance) -> None:
    url = f"http://mirror.example.org/pulp/content/{base}/a.txt"
    command = " ".join(
        [
            f"printf '# comment\\n\\n{url}\\n{base}/dir/\\n' |",
            *map(shlex.quote, pulp_star("compare")),
        ]
    )
    with tampering(instance.url) as proxy:
        completed = instance.run(
            ["sh", "-c", f"{command} {instance.url} {proxy.url} --urls - --json -"], check=False
        )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["requests"]["GET"] == 2


def test_guarded_content_is_compared_with_and_without_credentials(
    compare: Callable[..., Run], instance: Instance, pulp: Any, tmp_path: Path
) -> None:
    guard = pulp.create("contentguards/core/rbac/", name=Orm.unique())
    repository = pulp.repository({"a.txt": DATA}, autopublish=True)
    base = pulp.distribute(repository=repository, content_guard=guard["pulp_href"])
    (tmp_path / "urls").write_text(f"{base}/a.txt\n")

    def open_door(seen: Seen, answer: Answer) -> None:
        if answer.status == 401:
            answer.status = 200

    credentials = ("--username", "admin", "--password", instance.password)
    with tampering(instance.url) as proxy:
        arguments = (proxy.url, "--urls", str(tmp_path / "urls"))
        run = compare(*arguments)
        assert run.code == 2, run.out
        assert "give credentials" in run.out
        run = compare(*arguments, *credentials)
        assert run.code == 0, run.out
        assert run.report["requests"] == {"GET": 1, "HEAD": 2, "range": 1, "conditional": 1}
        proxy.tamper = open_door
        run = compare(*arguments, *credentials)
        assert (
            "status 401 -> 200 for HEAD" in run.titles or "status 401 -> 200 for GET" in run.titles
        )


def test_sample_of_distributions_is_repeatable_and_all_is_more(
    compare: Callable[..., Run], instance: Instance, orm: Orm
) -> None:
    files = {f"{number % 3}/{number}.rpm": b"%d" % number for number in range(30)}
    base = orm.distribution(publication=orm.publication({"PULP_MANIFEST": b"m", **files}))
    user = ("--username", "admin", "--password", instance.password)

    def asked(*arguments: str) -> list[str]:
        with tampering(instance.url) as proxy:
            run = compare(proxy.url, *user, *arguments, "--concurrency", "1")
        assert run.code == 0, run.out
        return [
            seen.target.rpartition(f"/{base}/")[2]
            for seen in proxy.seen
            if f"/{base}/" in seen.target and is_get(seen, "") and seen.headers["Accept"] == "*/*"
        ]

    first = asked("--files", "5")
    assert "PULP_MANIFEST" in first
    assert len([target for target in first if target.endswith(".rpm")]) <= 5
    assert asked("--files", "5") == first
    assert asked("--files", "5", "--seed", "1") != first
    assert {*files, "", "0/", "1/", "2/", "PULP_MANIFEST"} <= set(asked("--all"))


def on_a_terminal(arguments: list[str], instance: Instance) -> str:
    """Run the command with a terminal for its errors; return what it shows there."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        pulp_star(*arguments),
        env={**instance.client_environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.DEVNULL,
        stderr=end,
    )
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the process has closed its end
        while data := os.read(terminal, 65536):
            shown += data
    os.close(terminal)
    assert process.wait(300) == 0, shown
    return shown.decode()


def test_progress_bar_is_shown_on_a_terminal_only(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance
) -> None:
    arguments = ("--urls", urls(*(f"a.txt?n={number}" for number in range(30))))
    with tampering(instance.url) as proxy:
        shown = on_a_terminal(
            ["compare", instance.url, proxy.url, "--rate", "0", *arguments], instance
        )
        run = compare(proxy.url, *arguments)
    assert "Comparing" in shown
    percents = [int(value) for value in re.findall(r"(\d+)%", shown)]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(set(percents)) > 2, shown
    assert "Comparing" not in run.out


def test_run_ends_at_its_time_with_the_results_so_far(
    compare: Callable[..., Run], urls: Callable[..., str], instance: Instance, tmp_path: Path
) -> None:
    paths = [f"a.txt?n={number}" for number in range(5000)]
    state = str(tmp_path / "state")
    with tampering(instance.url) as proxy:
        arguments = (proxy.url, "--urls", urls(*paths), "--resume", state)
        run = compare(*arguments, "--time", "1s")
        done = run.report["requests"]["GET"]
        assert run.code == 0, run.out
        assert 0 < done < 5000
        assert run.report["complete"] is False
        assert "The time is up (--time), so not all was compared." in run.out
        again = compare(*arguments, "--time", "1s")
    assert again.report["requests"]["GET"] > done, "it goes on there"


@pytest.mark.parametrize("duration", ["0", "-1", "1d", "soon", ""])
def test_time_that_is_no_duration_is_one_line(
    compare: Callable[..., Run], instance: Instance, duration: str
) -> None:
    run = compare("http://127.0.0.1:9", "--time", duration)
    assert run.code == 2
    assert "is no duration, as 90, 90s, 15m or 2h" in run.out
    assert "Traceback" not in run.out


def test_client_certificate_is_sent_to_both_and_in_no_report(
    compare: Callable[..., Run], instance: Instance, pulp: Any, tmp_path: Path
) -> None:
    authority = Authority()
    guard = pulp.create(
        "contentguards/certguard/x509/", name=Orm.unique(), ca_certificate=authority.pem
    )
    repository = pulp.repository({"a.txt": DATA}, autopublish=True)
    base = pulp.distribute(repository=repository, content_guard=guard["pulp_href"])
    (tmp_path / "urls").write_text(f"{base}/a.txt\n")
    certificate = tmp_path / "client.pem"
    certificate.write_text(authority.issue())
    page, state = tmp_path / "report.html", tmp_path / "state"
    arguments = ("--urls", str(tmp_path / "urls"), "--html", str(page))
    with tampering(instance.url) as old, tampering(instance.url) as new:
        without = compare(new.url, *arguments, old=old.url)
        assert without.code == 2, without.out
        assert "give credentials" in without.out
        old.seen.clear()
        new.seen.clear()
        run = compare(
            new.url,
            *(*arguments, "--client-cert", str(certificate), "--resume", str(state)),
            old=old.url,
        )
    assert run.code == 0, run.out
    assert run.report["requests"] == {"GET": 1, "HEAD": 1, "range": 1, "conditional": 1}
    for proxy in (old, new):
        sent = {unquote(seen.headers["X-CLIENT-CERT"]) for seen in proxy.seen}
        assert sent == {certificate.read_text()}
    secret = certificate.read_text().splitlines()[1]
    for text in (run.out, page.read_text(), state.read_text(), json.dumps(run.report)):
        assert secret not in unquote(text)


def test_client_certificate_that_is_missing_is_one_line(
    compare: Callable[..., Run], instance: Instance
) -> None:
    run = compare("http://127.0.0.1:9", "--client-cert", "/nonexistent.pem")
    assert run.code == 2
    assert "'/nonexistent.pem' does not exist" in run.out


@pytest.mark.parametrize("dies", ["old", "new"])
def test_server_that_dies_keeps_the_differences_so_far(
    compare: Callable[..., Run],
    urls: Callable[..., str],
    instance: Instance,
    tmp_path: Path,
    dies: str,
) -> None:
    """Whichever of the two it is, all reports have what was compared, and the exit code is 2."""
    junit, page = tmp_path / "junit.xml", tmp_path / "report.html"
    paths = [f"a.txt?n={number}" for number in range(40)]
    with contextlib.ExitStack() as stack:

        def tamper(name: str) -> Tamper:
            def change(seen: Seen, answer: Answer) -> None:
                if name == "new" and is_get(seen, "n=3"):
                    failing(answer)
                if name == dies and seen.target.endswith("n=20"):
                    threading.Thread(target=stack.close, daemon=True).start()
                    raise ConnectionError

            return change

        old, new = (stack.enter_context(tampering(instance.url, tamper(n))) for n in ("old", "new"))
        run = compare(
            new.url,
            *("--urls", urls(*paths), "--junit", str(junit), "--html", str(page)),
            *("--concurrency", "1"),
            old=old.url,
        )
    assert run.code == 2, run.out
    assert run.titles == ["status 200 -> 500 for GET"]
    assert "cannot be reached" in run.report["incomplete"]
    assert 0 < run.report["requests"]["GET"] < 40
    assert "status 200 -&gt; 500 for GET" in page.read_text()
    assert "status 200 -&gt; 500 for GET" in junit.read_text()
