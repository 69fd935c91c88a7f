"""`pulp-star compare` with servers, files and options that are no good."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pulpcore.content_star.cli.compare.command import command
from pulpcore.content_star.cli.compare.sources import AccessLogs, Prefix
from tests.support.instance import pulp_star, wait_until
from tests.support.raw_server import Endless, raw_json, raw_response, raw_server

PATH = "/pulp/content/a"
SECRET = "s3cret"
LOG_LINE = '127.0.0.1 - - [x] "GET /pulp/content/a HTTP/1.1" 200 1'


@pytest.fixture
def origins() -> Iterator[Callable[..., tuple[str, str]]]:
    """Start an old and a new server with a response to `PATH` each."""
    with ExitStack() as stack:

        def start(old: bytes = raw_response(), new: bytes = raw_response()) -> tuple[str, str]:
            servers = ({PATH: old}, {PATH: new})
            return tuple(stack.enter_context(raw_server(each)) for each in servers)  # type: ignore[return-value]

        yield start


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process, in a directory of its own, with a list of one URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PULP_STAR_COMPARE_PASSWORD", raising=False)
    Path("urls").write_text(f"a?validate_token={SECRET}\n")

    def run(origins: tuple[str, str], *arguments: str) -> Result:
        return CliRunner().invoke(command, [*origins, "--rate", "0", *arguments])

    return run


def one_error(result: Result) -> str:
    """Return the message of a run that has ended with one line."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return result.output.strip().splitlines()[-1].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "nan"), "finite"),
        (("--rate", "inf"), "finite"),
        (("--timeout", "nan"), "finite"),
        (("--timeout", "inf"), "finite"),
        (("--header", "X-A: a\nX-B: b"), "'X-A' has control characters"),
        (("--header", f"Authorization {SECRET}"), "a header has a colon"),
        (("--username", "a:b", "--password", "p"), "no colon"),
        (("--client-cert", "binary"), "no certificate in PEM"),
        (("--resume", "missing/state"), "missing/state cannot be written"),
        (("--json", "missing/report"), "missing/report cannot be written"),
        (("--junit", "missing/report"), "missing/report cannot be written"),
        (("--html", "missing/report"), "missing/report cannot be written"),
        (("--api", "nonsense"), "'nonsense' is no URL"),
        (("--api", "http://127.0.0.1:24817/pulp/api/v3/"), "give the origin of the API alone"),
        (("--api", f"http://a:{SECRET}@127.0.0.1"), "credentials belong to --username"),
    ],
)
def test_compare_with_a_bad_option_is_one_line(compare, origins, arguments, message):
    Path("binary").write_bytes(b"\x90\xff")
    result = compare(origins(), "--urls", "urls", *arguments)
    assert message in one_error(result)
    assert SECRET not in result.output


def test_compare_needs_a_password_without_a_terminal(compare, origins):
    """As a process: older releases of click's test runner prompt for ever at the end of input."""
    arguments = [*origins(), "--urls", "urls", "--username", "a"]
    done = subprocess.run(
        pulp_star("compare", *arguments),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: --username needs --password."


@pytest.mark.parametrize(
    "response",
    [
        raw_response(b"", "302 Found", location="http://[bad/x"),
        raw_response(x_name="\xff\xfe"),
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"",
        raw_response(set_cookie=f"sessionid={SECRET}"),
        raw_response(x_auth_token=SECRET),
        raw_response(b"", "302 Found", location=f"http://store/x?mytoken={SECRET}"),
    ],
)
def test_compare_reports_bad_responses_without_secrets(compare, origins, response):
    reports = ("--json", "report.json", "--junit", "report.xml", "--html", "report.html")
    result = compare(origins(new=response), "--urls", "urls", *reports, "--resume", "state")
    assert result.exit_code == 1, result.output
    assert json.loads(Path("report.json").read_text())["differences"]
    for name in ("report.json", "report.xml", "report.html", "state"):
        assert SECRET not in Path(name).read_text()
    assert SECRET not in result.output


def test_compare_escapes_names_in_the_html_report(compare, origins):
    Path("urls").write_text("a?<script>\n")
    compare(origins(new=raw_response(x="<script>")), "--urls", "urls", "--html", "report.html")
    page = Path("report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page


STATUS: dict[str, Any] = {"versions": []}
API = "/pulp/api/v3/"


@pytest.mark.parametrize(
    "responses",
    [
        {API + "status/": raw_json(STATUS)},
        {API + "status/": raw_response(b"[" * 100_000, content_type="application/json")},
        *(
            {API + "status/": raw_json(STATUS), API + "distributions/": raw_json(value)}
            for value in (
                [],
                {"count": None},
                {"count": 1, "results": [5], "next": None},
                {"count": 1, "results": [{}], "next": None},
            )
        ),
        {
            API + "status/": raw_json(STATUS | {"domain_enabled": True}),
            "/pulp/default/api/v3/domains/": raw_json({"results": [{}], "next": None}),
        },
    ],
)
def test_compare_with_an_api_of_other_json_is_one_line(compare, origins, responses):
    with raw_server(responses) as api:
        result = compare(origins(), "--api", api)
    error = one_error(result) if not result.stdout.startswith("old") else result.output
    assert "has other JSON than Pulp's" in error


@pytest.mark.parametrize("at", ["status/", "distributions/"])
def test_compare_with_an_api_of_large_json_is_one_line(compare, origins, at):
    """It is not read to its end, which may be never."""
    endless = Endless(raw_response(b"[", content_type="application/json", content_length="9" * 15))
    large = Endless(endless + b" " * (33 << 20))
    with raw_server({API + "status/": raw_json(STATUS), API + at: large}) as api:
        result = compare(origins(), "--api", api)
    assert one_error(result) == f"{api}{API}{at} has more than 32 MiB of JSON."


def test_compare_sends_no_password_to_another_server(compare, origins):
    """An API that links to one is not followed there."""
    other = CountingResponses({})
    with raw_server(other) as elsewhere:
        distribution = {"base_path": "b", "repository_version": f"{elsewhere}/version/\x1b"}
        listed = {"count": 1, "results": [distribution], "next": None}
        responses = {API + "status/": raw_json(STATUS), API + "distributions/": raw_json(listed)}
        with raw_server(responses) as api:
            result = compare(origins(), "--api", api, "--username", "a", "--password", SECRET)
    assert result.exit_code == 2
    message = f"The REST API at {api} links to another server: '{elsewhere}/version/\\x1b'"
    assert message in result.output
    assert other.count == 0


ENDLESS = Endless(raw_response(content_length="9" * 15))


def test_compare_ends_at_its_time_although_a_response_does_not(compare, origins):
    """The response counts as not compared, and what was compared is kept."""
    path = "/pulp/content/endless"
    Path("urls").write_text("a\nendless\n")
    with raw_server({PATH: raw_response(), path: ENDLESS}) as old, raw_server({}) as new:
        limits = ("--time", "10", "--timeout", "1", "--concurrency", "1")
        result = compare((old, new), "--urls", "urls", *limits, "--json", "report.json")
    assert result.exit_code == 1, result.output
    assert json.loads(Path("report.json").read_text())["requests"] == {"GET": 1, "HEAD": 1}


def test_compare_with_an_endless_root_is_one_line(compare, origins):
    with raw_server({"/pulp/content/": ENDLESS}) as new:
        result = compare((origins()[0], new), "--urls", "urls", "--timeout", "1")
    assert f"{new}/pulp/content/, does not end its response within 1 s" in one_error(result)


@pytest.mark.parametrize("lines", [b"x\n" * 20_000, b"x" * 2_000_000], ids=["short", "long"])
def test_log_of_other_lines_lets_requests_and_signals_have_their_turn(tmp_path, lines):
    log = tmp_path / "log.gz"
    first = f"{LOG_LINE}\n".encode()
    log.write_bytes(gzip.compress(first + lines))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read() -> None:
        others = asyncio.create_task(take_turns())
        logs = AccessLogs([log], Prefix("http://x/pulp/content/"), with_variants=False)
        assert [item.request.target async for item in logs.items()] == ["a"]
        others.cancel()

    asyncio.run(read())
    assert turns > 3


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "x"},
        {"position": -5},
        {"done": ["x"]},
        {"results": []},
        {"results": {"faults": []}},
        {"results": {"known": {"gone": {"title": "", "count": 1, "example": None}}}},
    ],
)
def test_compare_with_an_altered_resume_file_is_one_line(compare, origins, changes):
    servers = origins()
    compare(servers, "--urls", "urls", "--resume", "state")
    saved = json.loads(Path("state").read_text())
    for name, value in changes.items():
        saved[name] = saved[name] | value if isinstance(value, dict) else value
    Path("state").write_text(json.dumps(saved))
    result = compare(servers, "--urls", "urls", "--resume", "state")
    assert "cannot be continued" in one_error(result)


def test_compare_keeps_results_when_the_resume_file_cannot_be_written(compare, origins):
    Path("state.new").mkdir()
    result = compare(origins(), "--urls", "urls", "--resume", "state", "--json", "report.json")
    assert result.exit_code == 2
    assert "Incomplete: state cannot be written" in result.output
    assert json.loads(Path("report.json").read_text())["requests"]["GET"] == 1


def test_compare_skips_lines_that_are_no_url_or_too_long(compare, origins):
    Path("urls").write_text("http://[bad\n" + "x" * 600_000 + "\na\n")
    result = compare(origins(), "--urls", "urls")
    assert result.exit_code == 0, result.output
    assert "1 lines that are no URL" in result.output
    assert "1 lines of over 256 KiB" in result.output
    assert "GET 1, HEAD 1" in result.output


def test_compare_skips_logged_headers_with_control_characters(compare, origins):
    Path("log").write_text(f'{LOG_LINE} range="bytes=0-\\x0d\\x0aX: y"\n{LOG_LINE}\n')
    result = compare(origins(), "--access-log", "log")
    assert result.exit_code == 0, result.output
    assert "1 requests whose headers have control characters" in result.output


def test_compare_masks_secrets_of_a_log_in_another_format(compare, origins):
    Path("log").write_text(f"GET a?validate_token={SECRET}&b=c\n")
    assert "validate_token=***&b=c" in one_error(compare(origins(), "--access-log", "log"))


def test_compare_reads_an_access_log_from_a_named_pipe(compare, origins):
    os.mkfifo("pipe")
    threading.Thread(target=Path("pipe").write_text, args=(f"{LOG_LINE}\n",)).start()
    result = compare(origins(), "--access-log", "pipe")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("way", ["time", "signal"])
def test_compare_ends_while_standard_input_is_silent(way):
    """At its time or by Ctrl-C: `tail -f` of a log may wait for hours."""
    responses = CountingResponses({PATH: raw_response()})
    arguments = ["--time", "2"] if way == "time" else []
    with (
        raw_server(responses) as old,
        raw_server(responses) as new,
        subprocess.Popen(
            [*pulp_star("compare"), old, new, "--access-log", "-", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin
        process.stdin.write(f"{LOG_LINE}\n")
        process.stdin.flush()
        try:
            # A HEAD to the new server, and a GET to both.
            wait_until(lambda: responses.count == 3 or process.poll() is not None)
            if way == "signal":
                process.send_signal(signal.SIGINT)
            assert process.wait(60) == (0 if way == "time" else 2)
        finally:
            process.kill()


def test_compare_that_is_killed_is_resumed_and_counts_each_url_once(tmp_path):
    """With SIGKILL: the progress is saved every few seconds."""
    names = [f"f{number}" for number in range(1000)]
    plain = {f"/pulp/content/{name}": raw_response(connection="close") for name in names}
    old, new = CountingResponses(plain), CountingResponses(plain)
    new["/pulp/content/f0"] = new["/pulp/content/f999"] = raw_response(b"y", connection="close")
    (tmp_path / "urls").write_text("\n".join(names))
    arguments = ["--urls", "urls", "--resume", "state", "--json", "report.json", "--rate"]
    with raw_server(old) as old_url, raw_server(new) as new_url:
        command = [*pulp_star("compare"), old_url, new_url, *arguments]
        with subprocess.Popen([*command, "40"], cwd=tmp_path) as process:
            try:
                wait_until(lambda: (tmp_path / "state").exists() or process.poll() is not None)
            finally:
                process.kill()
        asked = old.count
        assert process.wait() == -signal.SIGKILL
        assert subprocess.run([*command, "0"], cwd=tmp_path).returncode == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["requests"] == {"GET": 1000, "HEAD": 1000, "range": 1000}
    assert report["differences"]["body of 200 for GET"]["count"] == 2
    assert old.count < asked + 3000, "nothing was resumed"


def test_compare_with_closed_standard_input_is_one_line(origins):
    completed = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *pulp_star("compare"), *origins(), "--access-log", "-"],
        capture_output=True,
        text=True,
    )
    assert (completed.returncode, completed.stdout) == (2, "")
    assert completed.stderr == "Error: Standard input cannot be read: it is closed.\n"


class CountingResponses(dict[str, bytes]):
    """Responses that count how many were sent."""

    count = 0

    def get(self, *arguments: Any) -> Any:
        self.count += 1
        return super().get(*arguments)
