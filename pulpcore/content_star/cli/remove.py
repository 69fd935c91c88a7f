"""`pulp-star remove`: delete a distribution and repository of `pulp-star add`."""

import shlex

import click

from pulpcore.content_star.cli.target import Target, target_options


@click.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@target_options
def command(name: str, yes: bool, target: Target) -> None:
    """Delete a distribution of `pulp-star add`; NAME is its name or its base path.

    It deletes the distribution, and the repository with all its versions and publications. The
    files stay in Pulp's storage, as others may use them, until orphans are cleaned up; the command
    for that is printed. The folder that was added stays as it is.
    """
    from pulpcore.content_star.cli.repository import check_removable, find_distribution, remove

    with target.connect() as pulp:
        served = find_distribution(pulp, name)
        check_removable(pulp, served)
        if not yes:
            question = f"Remove {served.name} ({served.files} files), served at {served.url}?"
            click.confirm(question, abort=True, err=True)
        remove(pulp, served)
    click.echo(f"Removed {served.name}: its distribution, publications and repository.")
    config = f" --config {shlex.quote(str(target.state.pulp_cli_config))}"
    click.echo(
        "Files that no other repository has stay in Pulp's storage until you delete all orphans "
        "(with pulp-cli):\n"
        f"  pulp{config if target.url is None else ''} orphan cleanup --protection-time 0"
    )
