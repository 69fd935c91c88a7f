"""`pulp-star compare`: compare the responses of two content apps."""

import asyncio
import hashlib
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click

from pulpcore.content_star.cli.compare.errors import CannotCompare

if TYPE_CHECKING:
    from pulpcore.content_star.cli.compare.client import Access, Server, Servers
    from pulpcore.content_star.cli.compare.report import Report
    from pulpcore.content_star.cli.compare.results import Progress
    from pulpcore.content_star.cli.compare.sources import Source

DEFAULT_PREFIX = "/pulp/content/"
PASSWORD_VARIABLE = "PULP_STAR_COMPARE_PASSWORD"  # noqa: S105 - the name of a variable

_RESUMED = (
    *("old", "new", "logs", "urls", "api", "everything", "files", "seed", "variants", "fetch"),
    "ignored",
)
"""Options that must be the same when a run is resumed."""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType):
    """Seconds, or a number with s, m or h."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no duration, as 90, 90s, 15m or 2h", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


def _base_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check a base URL, and complete it with the content prefix and the slash at its end."""
    try:
        url = urlsplit(value)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        valid = False
    if not valid or url.query or url.fragment:
        raise click.BadParameter(f"{value!r} is no URL, as http://127.0.0.1:24816{DEFAULT_PREFIX}")
    if url.username or url.password:
        raise click.BadParameter("credentials belong to --username, and not into the URL")
    path = url.path or DEFAULT_PREFIX
    return f"{url.scheme}://{url.netloc}{path.rstrip('/')}/"


def _headers(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    headers = {}
    for value in values:
        name, colon, content = value.partition(":")
        if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name):
            raise click.BadParameter(f"{name!r} is no header, as 'Name: value'")
        headers[name] = content.strip()
    return headers


_FILE = click.Path(path_type=Path, dir_okay=False)
_FILE_OR_DASH = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command("compare", short_help="Compare the responses of two content apps.")
@click.argument("old", callback=_base_url)
@click.argument("new", callback=_base_url)
@click.option(
    "--access-log",
    "logs",
    type=_FILE_OR_DASH,
    multiple=True,
    help="Repeat the requests of an access log, in their order: nginx's or Apache's combined, "
    "gunicorn's, or Pulp's own; .gz too, - for standard input.",
)
@click.option("--urls", type=_FILE_OR_DASH, help="Compare the paths or URLs in a file, one a line.")
@click.option("--api", metavar="URL", help="Origin of the REST API.  [default: that of OLD]")
@click.option("--all", "everything", is_flag=True, help="All files of all distributions.")
@click.option(
    "--files",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Files of each distribution.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed is another sample.")
@click.option(
    "--variants/--as-logged",
    default=False,
    help="For each GET of an access log, compare HEAD, a range and a conditional request too.",
)
@click.option("--fetch", is_flag=True, help="Compare on-demand content too: Pulp downloads it.")
@click.option("--username", default="", help="User of the REST API and of guarded content.")
@click.option(
    "--password",
    envvar=PASSWORD_VARIABLE,
    show_envvar=True,
    help="The user's password; asked for if it is missing.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="'NAME: VALUE'",
    help="A header of every request to both servers.",
)
@click.option(
    "--client-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate in PEM that is sent as X-CLIENT-CERT, as a web server in front does.",
)
@click.option(
    "--ignore-header", "ignored", multiple=True, metavar="NAME", help="A header not to compare."
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=20.0,
    show_default=True,
    help="Requests a second to each server; 0 is no limit.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Requests to each server at a time.",
)
@click.option("--time", "seconds", type=Duration(), help="End after 90, 90s, 15m or 2h.")
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="Seconds without a byte after which a response counts as broken.",
)
@click.option(
    "--resume",
    "state",
    type=_FILE,
    help="Keep the progress in this file, and continue from it if it exists.",
)
@click.option(
    "--json", "json_file", type=_FILE_OR_DASH, help="Write a JSON report; - for standard output."
)
@click.option("--junit", "junit_file", type=_FILE, help="Write a JUnit report.")
@click.option("--html", "html_file", type=_FILE, help="Write an HTML report.")
def command(**options: Any) -> None:
    """Send the same requests to two content apps, and report each difference.

    OLD and NEW are the base URLs of pulpcore-content and of content-star, which serve the same
    database and storage, as in http://127.0.0.1:24816/pulp/content/. Without a path, /pulp/content/
    is meant.

    Without --access-log and --urls, the paths come from the REST API: every distribution that the
    user may see, with its listings, its metadata and a sample of its files. For each path there are
    a GET, a HEAD, a range and a conditional request. Compared are status, headers, bodies by their
    sha256, redirects without their signature, listings by their entries, and error bodies by their
    kind. Nothing is ever written to Pulp.

    Differences that docs/differences.md lists are shown with their reason; all others count as
    faults. Content that changes in between is asked for again.

    \b
    Exit code  0  both are alike, but for intended differences
               1  there are other differences
               2  they could not be compared, or not to the end; see --resume

    \b
    pulp-star compare http://localhost:24816 http://localhost:24818 --username admin
    pulp-star compare http://localhost:24816 http://localhost:24818 \\
        --access-log /var/log/nginx/access.log --rate 50 --time 1h --resume run.json
    """
    raise click.exceptions.Exit(_Command(options).run())


class _Command:
    """One invocation."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.old, self.new = options["old"], options["new"]
        self.started = time.monotonic()
        self.runner: Any = None
        self.interrupted = False
        self.time_is_up = False
        if self.old == self.new:
            raise CannotCompare("OLD and NEW are the same URL.")
        if options["logs"] and options["urls"]:
            raise CannotCompare("Give --access-log or --urls, not both.")
        self.access = self._access()
        self.progress = self._progress()
        self.skipped: Counter[str] = Counter()

    def run(self) -> int:
        """Compare, print the report, and return the exit code."""
        incomplete = ""
        if not self.progress.complete:
            try:
                incomplete = asyncio.run(self._compare())
            except KeyboardInterrupt:
                incomplete = "interrupted"
        return self._report(incomplete)

    async def _compare(self) -> str:
        """Run the comparison; return why it is incomplete, or an empty string."""
        from pulpcore.content_star.cli.compare.client import Servers, ServerUnavailable
        from pulpcore.content_star.cli.compare.runner import Options, Runner

        options = self.options
        loop = asyncio.get_running_loop()
        async with Servers(
            self.old,
            self.new,
            self.access,
            rate=options["rate"],
            concurrency=options["concurrency"],
            timeout=options["timeout"],
        ) as servers:
            try:
                await _check(servers.old, "OLD")
                await _check(servers.new, "NEW")
                source = self._source(servers)
                self.skipped = source.skipped
                with _Bar(source) as bar:
                    run_options = Options(
                        options["concurrency"],
                        options["seconds"],
                        options["fetch"],
                        frozenset(map(str.lower, options["ignored"])),
                    )
                    runner = Runner(servers, source, self.progress, run_options, bar.update)
                    for number in (signal.SIGINT, signal.SIGTERM):
                        loop.add_signal_handler(number, self._interrupt, runner)
                    await runner.run()
            except (ServerUnavailable, CannotCompare) as error:
                if not self.progress.results.compared:
                    raise CannotCompare(str(error)) from error
                return str(error)
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)
        if self.interrupted:
            return "interrupted"
        self.time_is_up = not self.progress.complete
        return ""

    def _interrupt(self, runner: Any) -> None:
        """Finish the requests under way; the next signal ends the process."""
        self.interrupted = True
        runner.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _access(self) -> "Access":
        from pulpcore.content_star.cli.compare.client import Access

        headers, options = dict(self.options["headers"]), self.options
        if certificate := options["client_cert"]:
            headers["X-CLIENT-CERT"] = quote(certificate.read_text(), safe="")
        password = options["password"]
        if options["username"] and password is None:
            password = click.prompt("Password", hide_input=True, err=True)
        return Access(headers, options["username"], password or "")

    def _progress(self) -> "Progress":
        from pulpcore.content_star.cli.compare.results import Progress

        names = [
            "old",
            "new",
            "logs",
            "urls",
            "api",
            "everything",
            "files",
            "seed",
            "variants",
            "fetch",
            "ignored",
        ]
        values = [str(self.options[name]) for name in names]
        progress = Progress(
            self.options["state"], hashlib.sha256("\n".join(values).encode()).hexdigest()
        )
        try:
            progress.load()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CannotCompare(
                f"{progress.path} cannot be continued: {error}. Remove it, or name another file."
            ) from error
        return progress

    def _source(self, servers: "Servers") -> "Source":
        from pulpcore.content_star.cli.compare.api import Api, ApiSource, Sample
        from pulpcore.content_star.cli.compare.client import Pace
        from pulpcore.content_star.cli.compare.sources import AccessLogs, Prefix, UrlList

        options, prefix = self.options, Prefix(self.old)
        if options["urls"]:
            return UrlList(options["urls"], prefix)
        if options["logs"]:
            return AccessLogs(options["logs"], prefix, options["variants"])
        url = options["api"] or "{0.scheme}://{0.netloc}".format(urlsplit(self.old))
        api = Api(url, servers.old.session, Pace(options["rate"]), self.access)
        sample = Sample(options["seed"], options["files"], options["everything"])
        return ApiSource(api, servers.new, sample)

    def _report(self, incomplete: str) -> int:
        from pulpcore.content_star.cli.compare.report import Report

        results = self.progress.results
        seconds = time.monotonic() - self.started
        report = Report(
            self.old,
            self.new,
            results,
            results.skipped + self.skipped,
            seconds,
            incomplete,
            self.time_is_up,
        )
        self._write(report)
        if incomplete or not results.compared or results.refused == results.compared:
            return 2
        return 1 if results.faults else 0

    def _write(self, report: "Report") -> None:
        options = self.options
        files: tuple[tuple[Path | None, Callable[[], str]], ...] = (
            (options["junit_file"], report.as_junit),
            (options["html_file"], report.as_html),
            (options["json_file"], report.as_json),
        )
        on_output = options["json_file"] == Path("-")
        click.echo(report.as_text(), nl=False, err=on_output)
        for path, render in files:
            if path == Path("-"):
                click.echo(render())
            elif path is not None:
                try:
                    path.write_text(render())
                except OSError as error:
                    raise CannotCompare(f"{path} cannot be written: {error.strerror}") from error


async def _check(server: "Server", name: str) -> None:
    """Check that a URL is the root of a content app: a listing, or Pulp's 404 where domains are on.

    Raises CannotCompare and ServerUnavailable.
    """
    from pulpcore.content_star.cli.compare.exchange import Request

    response = await server.ask(Request(""))
    is_error = response.status == 404 and response.body_kind in ("text", "JSON")
    if response.broken:
        raise CannotCompare(f"{name}, {server.base_url}, does not speak HTTP: {response.broken}")
    if response.listing is None and not is_error:
        raise CannotCompare(
            f"{name}, {server.base_url}, is not the root of a Pulp's content app: it answers "
            f"{response.status} without a listing. Give the URL with the content prefix, as in "
            f"http://127.0.0.1:24816{DEFAULT_PREFIX}"
        )


class _Bar:
    """Progress on a terminal: bytes of a file, or distributions."""

    def __init__(self, source: "Source") -> None:
        self._source = source
        self._stream = sys.stderr
        self._bar = click.progressbar(
            range(source.total or 1), label="Comparing", file=self._stream, show_pos=True
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream.isatty():
            self._bar.render_finish()

    def update(self) -> None:
        """Show how much of the source is done."""
        if self._stream.isatty():
            self._bar.length = max(self._source.total, self._bar.pos, 1)
            self._bar.update(max(0, self._source.done - self._bar.pos))
