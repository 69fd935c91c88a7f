"""The `pulp-star` command: a whole Pulp on one machine, and folders of files served from it.

Starting the command must stay cheap, so nothing here imports Django or loads Pulp's settings;
what needs them runs as a process of its own.
"""

import os

import click

from pulpcore.content_star import __version__
from pulpcore.content_star.cli import add, env, listing, logs, password, reload, remove, status, up


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pulp-star")
def main() -> None:
    """Run Pulp's REST API and content app as one process, and fill it with files.

    \b
    pulp-star up                             start PostgreSQL, a worker and Pulp
    pulp-star add ./files --base-path files  serve a folder of files
    pulp-star list                           list what is served
    pulp-star remove files                   stop serving it
    eval "$(pulp-star env)"                  point Pulp's own commands at the same Pulp

    Everything is kept in one directory: --home, or PULP_STAR_HOME, or ./.pulp-star.
    """
    os.umask(0o077)  # all that is written is private


for module in (up, add, listing, remove, status, reload, password, logs, env):
    main.add_command(module.command)
