"""The click group of `pulp-star`, with its subcommands."""

import os

import click

from pulpcore.content_star import __version__
from pulpcore.content_star.cli import add, env, listing, logs, password, reload, remove, status, up
from pulpcore.content_star.cli.compare.command import command as compare


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pulp-star")
def group() -> None:
    """Run Pulp's REST API and content app as one process, and fill it with files.

    \b
    pulp-star up                             start PostgreSQL, a worker and Pulp
    pulp-star add ./files --base-path files  serve a folder of files
    pulp-star list                           list what is served
    pulp-star remove files                   stop serving it
    pulp-star compare OLD NEW                compare the responses of two content apps
    eval "$(pulp-star env)"                  point Pulp's own commands at the same Pulp

    All state is in one directory: --home, or PULP_STAR_HOME, or ./.pulp-star.
    """
    os.umask(0o077)  # files are private to the user


for module in (up, add, listing, remove, status, reload, password, logs, env):
    group.add_command(module.command)
group.add_command(compare)
