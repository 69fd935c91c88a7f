"""`pulp-star compare`: compare the responses of two content apps."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click

from pulpcore.content_star.cli.compare import DEFAULT_PREFIX

PASSWORD_VARIABLE = "PULP_STAR_COMPARE_PASSWORD"  # noqa: S105 - the name of a variable

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


class Finite(click.FloatRange):
    """A number in a range, and neither infinite nor none (`nan`)."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def _base_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check a base URL, and complete it with the content prefix and the slash at its end."""
    url = _url(value, f"http://127.0.0.1:24816{DEFAULT_PREFIX}")
    path = url.path or DEFAULT_PREFIX
    return f"{url.scheme}://{url.netloc}{path.rstrip('/')}/"


def _origin(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check an origin."""
    if value is None:
        return None
    url = _url(value, "http://127.0.0.1:24817")
    if url.path not in ("", "/"):
        raise click.BadParameter(f"{value!r} has a path: give the origin of the API alone")
    return f"{url.scheme}://{url.netloc}"


def _url(value: str, example: str) -> SplitResult:
    """Return the parts of an HTTP URL without query and credentials. Raises BadParameter."""
    try:
        url = urlsplit(value)
        if url.username or url.password:
            raise click.BadParameter("credentials belong to --username, and not into the URL")
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        valid = False
    if not valid or url.query or url.fragment:
        raise click.BadParameter(f"{value!r} is no URL, as {example}")
    return url


def _headers(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    headers = {}
    for value in values:
        name, colon, content = value.partition(":")
        if not colon:  # it may be a secret
            raise click.BadParameter("a header has a colon, as 'Name: value'")
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise click.BadParameter(f"{name!r} is no name of a header, as in 'Name: value'")
        if not content.strip().isprintable():
            raise click.BadParameter(f"the value of {name!r} has control characters")
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
@click.option(
    "--api",
    callback=_origin,
    metavar="URL",
    help="Origin of the REST API.  [default: that of OLD]",
)
@click.option("--all", "everything", is_flag=True, help="All files of all distributions.")
@click.option(
    "--files",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Files of each distribution.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random sample of files.")
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
    type=Finite(0),
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
    type=Finite(1),
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
    pulp-star compare http://localhost:24816 http://localhost:24818 \\
        --api http://localhost:24817 --username admin
    pulp-star compare http://localhost:24816 http://localhost:24818 \\
        --access-log /var/log/nginx/access.log --rate 50 --time 1h --resume run.json
    """
    from pulpcore.content_star.cli.compare.invocation import Invocation

    raise click.exceptions.Exit(Invocation(options).run())
