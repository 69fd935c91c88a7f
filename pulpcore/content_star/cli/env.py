"""`pulp-star env`: environment variables for Pulp's own commands on the same state."""

import shlex
import sys
from pathlib import Path

import click

from pulpcore.content_star.cli.state import State, home_option


@click.command("env")
@home_option
def command(state: State) -> None:
    """Print `export` lines that point Pulp's own commands at the Pulp of `pulp-star up`.

    \b
    eval "$(pulp-star env)"
    pulpcore-manager shell
    pulpcore-content
    uvicorn pulpcore.routing:application --port 24818

    The database runs only while `pulp-star up` does, and where it listens may change with every
    start.
    """
    instance = state.load()
    commands = shlex.quote(str(Path(sys.executable).parent))
    click.echo(f"export PATH={commands}:$PATH")
    for name, value in sorted(state.environ(instance).items()):
        click.echo(f"export {name}={shlex.quote(value)}")
    if not state.is_running():
        click.echo("Note: `pulp-star up` is not running, so there is no database.", err=True)
