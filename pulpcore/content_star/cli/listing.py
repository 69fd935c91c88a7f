"""`pulp-star list`: list the served folders."""

import click

from pulpcore.content_star.cli.target import Target, target_options_without_tasks


@click.command("list")
@target_options_without_tasks
def command(target: Target) -> None:
    """List the file distributions: name, base path, number of files, URL.

    Those that `pulp-star add` has not made are listed too. A distribution without a repository has
    no number.
    """
    from pulpcore.content_star.cli.repository import distributions

    with target.connect() as pulp:
        rows = sorted(
            (served.name, served.base_path, _count(served.files), served.url)
            for served in distributions(pulp)
        )
    if not rows:
        click.echo("Nothing is served yet: pulp-star add DIRECTORY --base-path PATH", err=True)
        return
    _print_table([("NAME", "BASE PATH", "FILES", "URL"), *rows])


def _count(files: int | None) -> str:
    return "-" if files is None else str(files)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
