"""`pulp-star password`: print or reset the password of the user `admin`."""

import click

from pulpcore.content_star.cli.prepare import Preparation, process_environ
from pulpcore.content_star.cli.processes import Supervisor
from pulpcore.content_star.cli.state import State, home_option, new_password, replace


@click.command("password")
@click.option("--reset", is_flag=True, help="Set a new one first; `pulp-star up` has to run.")
@home_option
def command(reset: bool, state: State) -> None:
    """Print the password of the user `admin`, and nothing else.

    It is the one that `pulp-star up` made. If it was changed through Pulp's API, --reset makes one
    that is known here again. Sessions that were begun with the old one end.
    """
    instance = state.load()
    if reset:
        if not state.is_running():
            raise click.ClickException(
                f"The database of {state.home} does not run, and the password is in it: "
                f"start `{state.up_command}`, then reset the password."
            )
        password = new_password()
        click.echo("Setting a new password, which takes some seconds.", err=True)
        supervisor = Supervisor(state.logs)
        Preparation(state, supervisor, process_environ(state, instance)).set_password(password)
        replace(state.password_file, password)
        state.write_pulp_cli_config(instance)
    click.echo(state.password)
