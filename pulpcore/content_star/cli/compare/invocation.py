"""One run of `pulp-star compare`: asks for what is missing, compares, and writes the reports."""

import asyncio
import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from pulpcore.content_star.cli.compare import DEFAULT_PREFIX
from pulpcore.content_star.cli.compare.api import Api, ApiSource, Sample
from pulpcore.content_star.cli.compare.client import (
    Access,
    RateLimiter,
    Server,
    Servers,
    ServerUnavailable,
)
from pulpcore.content_star.cli.compare.errors import CannotCompare
from pulpcore.content_star.cli.compare.exchange import Request
from pulpcore.content_star.cli.compare.progress_bar import ProgressBar
from pulpcore.content_star.cli.compare.report import Report
from pulpcore.content_star.cli.compare.results import Progress
from pulpcore.content_star.cli.compare.runner import Options, Runner
from pulpcore.content_star.cli.compare.sources import AccessLogs, Prefix, Source, UrlList

_RESUMED = (
    *("old", "new", "logs", "urls", "api", "everything", "files", "seed", "variants", "fetch"),
    "ignored",
)
"""Options that must be the same when a run is resumed."""


class Invocation:
    """One run of the command, from its options to the exit code and the reports."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.old, self.new = options["old"], options["new"]
        self.started = time.monotonic()
        self.interrupted = False
        self.time_is_up = False
        if self.old == self.new:
            raise CannotCompare("OLD and NEW are the same URL.")
        if options["logs"] and options["urls"]:
            raise CannotCompare("Give --access-log or --urls, not both.")
        for name in ("state", "json_file", "junit_file", "html_file"):
            _check_writable(options[name])
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
                await _check(servers.old, "OLD", options["timeout"])
                await _check(servers.new, "NEW", options["timeout"])
                source = self._source(servers)
                self.skipped = source.skipped
                with ProgressBar(source) as bar:
                    run_options = Options(
                        options["concurrency"],
                        options["seconds"],
                        options["timeout"],
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

    def _interrupt(self, runner: Runner) -> None:
        """Finish the requests under way; the next signal ends the process."""
        self.interrupted = True
        runner.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _access(self) -> Access:
        headers, options = dict(self.options["headers"]), self.options
        if certificate := options["client_cert"]:
            headers["X-CLIENT-CERT"] = quote(_pem(certificate), safe="")
        username, password = options["username"], options["password"]
        if ":" in username:
            raise CannotCompare("A user of Basic authentication has no colon in the name.")
        if username and password is None:
            try:
                password = click.prompt("Password", hide_input=True, err=True)
            except click.Abort:
                raise CannotCompare("--username needs --password.") from None
        return Access(headers, username, password or "")

    def _progress(self) -> Progress:
        values = [str(self.options[name]) for name in _RESUMED]
        progress = Progress(
            self.options["state"], hashlib.sha256("\n".join(values).encode()).hexdigest()
        )
        try:
            progress.load()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CannotCompare(
                f"{progress.path} cannot be continued: {error}. Remove it, or name another file."
            ) from error
        return progress

    def _source(self, servers: Servers) -> Source:
        options, prefix = self.options, Prefix(self.old)
        if options["urls"]:
            return UrlList(options["urls"], prefix)
        if options["logs"]:
            return AccessLogs(options["logs"], prefix, options["variants"])
        url = options["api"] or "{0.scheme}://{0.netloc}".format(urlsplit(self.old))
        api = Api(url, servers.old.session, RateLimiter(options["rate"]), self.access)
        sample = Sample(options["seed"], options["files"], options["everything"])
        return ApiSource(api, servers.new, sample)

    def _report(self, incomplete: str) -> int:
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

    def _write(self, report: Report) -> None:
        options = self.options
        files: tuple[tuple[Path | None, Callable[[], str]], ...] = (
            (options["junit_file"], report.as_junit),
            (options["html_file"], report.as_html),
            (options["json_file"], report.as_json),
        )
        on_output = options["json_file"] == Path("-")
        click.echo(report.as_text(), nl=False, err=on_output)
        problems = []
        for path, render in files:
            if path == Path("-"):
                click.echo(render())
            elif path is not None:
                try:
                    # Headers that are not UTF-8 are in differences.
                    path.write_text(render(), "utf-8", "backslashreplace")
                except OSError as error:
                    problems.append(f"{path} cannot be written: {error.strerror}")
        if problems:
            raise CannotCompare("; ".join(problems))


def _check_writable(path: Path | None) -> None:
    """Raise CannotCompare if a file cannot be written: before hours of requests."""
    if path is None or path == Path("-"):
        return
    if not os.access(path if path.exists() else path.parent, os.W_OK) or not path.parent.is_dir():
        raise CannotCompare(f"{path} cannot be written: check its directory and its permissions.")


def _pem(certificate: Path) -> bytes:
    """Return a certificate; raises CannotCompare if it is not in PEM."""
    try:
        pem = certificate.read_bytes()
    except OSError as error:
        raise CannotCompare(f"{certificate} cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise CannotCompare(f"{certificate} is no certificate in PEM.")
    return pem


async def _check(server: Server, name: str, seconds: float) -> None:
    """Check that a URL is the root of a content app: a listing, or Pulp's 404 where domains are on.

    Raises CannotCompare and ServerUnavailable.
    """
    try:
        async with asyncio.timeout(seconds):
            response = await server.ask(Request(""))
    except TimeoutError:
        raise CannotCompare(
            f"{name}, {server.base_url}, does not end its response within {seconds:g} s."
        ) from None
    is_error = response.status == 404 and response.body_kind in ("text", "JSON")
    if response.broken:
        raise CannotCompare(f"{name}, {server.base_url}, does not speak HTTP: {response.broken}")
    if response.listing is None and not is_error:
        raise CannotCompare(
            f"{name}, {server.base_url}, is not the root of a Pulp's content app: it answers "
            f"{response.status} without a listing. Give the URL with the content prefix, as in "
            f"http://127.0.0.1:24816{DEFAULT_PREFIX}"
        )
