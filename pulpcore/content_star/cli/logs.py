"""`pulp-star logs`: print the end of log files."""

import os

import click

from pulpcore.content_star.cli.state import State, home_option

_SERVERS = ("postgres", "pulpcore-worker", "uvicorn")


@click.command("logs")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many lines of each.",
)
@home_option
def command(name: str | None, follow: bool, lines: int, state: State) -> None:
    """Print the end of the log NAME, or of those of PostgreSQL, the worker and uvicorn.

    There are others of the steps of a start, like migrate; a wrong NAME gets the list. They are
    files in the state directory's logs/, with what was before the last start, or before the last 10
    MiB, in .log.old.
    """
    state.check()
    known = sorted(path.stem for path in state.logs.glob("*.log"))
    selected = [server for server in _SERVERS if server in known] if name is None else [name]
    if not selected or selected[0] not in known:
        raise click.ClickException(
            f"There is no log {name or 'yet'} in {state.logs}. "
            f"There are: {', '.join(known) or 'none'}."
        )
    files = [str(state.logs / f"{log}.log") for log in selected]
    try:
        # `tail -F` handles rotated and truncated files.
        os.execvp("tail", ["tail", f"--lines={lines}", *(["-F"] if follow else []), *files])  # noqa: S606, S607
    except FileNotFoundError:
        raise click.ClickException(
            f"The command `tail` is not installed: install coreutils, or look into {state.logs}."
        ) from None
