"""The error of a comparison that cannot be made or continued."""

import click


class CannotCompare(click.ClickException):
    """Ends the command with one line and exit code 2."""

    exit_code = 2
