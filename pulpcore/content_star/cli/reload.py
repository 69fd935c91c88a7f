"""`pulp-star reload`: replace the server process without refusing requests."""

import os
import signal
import time

import click

from pulpcore.content_star.cli.processes import POLL_SECONDS
from pulpcore.content_star.cli.state import State, home_option


@click.command("reload")
@home_option
def command(state: State) -> None:
    """Replace the process that serves Pulp, as after a change of settings or an upgrade.

    The next process listens on the same socket; when it serves, the one before accepts no more, and
    ends after its downloads. No request is refused. If the next one does not start, the one before
    stays. The database, the worker and `pulp-star up` itself are not replaced.
    """
    state.load()
    before = state.load_reload()
    if not state.is_running():
        raise click.ClickException(f"No `pulp-star up` runs on {state.home}: start it.")
    os.kill(int(state.lock_pid()), signal.SIGUSR1)
    click.echo("Starting the next process.", err=True)
    while (after := state.load_reload()) == before:
        if not state.is_running():
            raise click.ClickException("`pulp-star up` has stopped: look at its output.")
        time.sleep(POLL_SECONDS)
    if after["problem"]:
        raise click.ClickException(
            f"The process before goes on, because the next one failed: {after['problem']}"
        )
    click.echo("Reloaded. The process before ends once its downloads have.")
