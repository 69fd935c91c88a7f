"""`pulp-star add`: publish and serve a folder of files."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pulpcore.content_star.cli.folder import (
    Folder,
    Skipped,
    hash_files,
    human_size,
    printable,
    scan,
)
from pulpcore.content_star.cli.steps import step
from pulpcore.content_star.cli.target import Target, target_options

if TYPE_CHECKING:
    from pulpcore.content_star.cli.repository import Repository


@click.command("add")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--base-path", required=True, help="Where to serve it below the content URL.")
@click.option("--name", help="Name of repository and distribution.  [default: the base path]")
@click.option(
    "--transfer",
    type=click.Choice(["auto", "sync", "upload"]),
    default="auto",
    show_default=True,
    help="Let a worker fetch the files from this machine (sync), or send them one by one. "
    "auto syncs if Pulp has a loopback address.",
)
@target_options
def command(
    directory: Path, base_path: str, name: str | None, transfer: str, target: Target
) -> None:
    """Make the files below DIRECTORY a served Pulp repository.

    It makes a file repository, a publication and a distribution, and prints their URL last. Without
    --url that happens in the Pulp of `pulp-star up`.

    Run it again after changes: the repository then gets a new version that holds exactly the
    directory's files. Unchanged files are not sent again, and if nothing has changed, there is no
    new version.

    Symbolic links and special files are left out. Files that cannot be read, and paths that Pulp
    cannot hold (not UTF-8, with a line break, with space at an end, with # at the beginning), are
    left out as well, and the exit code is then 1; what was served at these paths before stays. A
    directory without any file is an error.
    """
    from pulpcore.content_star.cli.repository import Repository

    base_path = base_path.strip("/")
    if not base_path:
        raise click.ClickException("The --base-path must not be empty.")
    if target.url is None:
        target.state.load()  # before all files are looked at
    folder = _scan(directory)
    with target.connect() as pulp:
        sync = pulp.is_here if transfer == "auto" else transfer == "sync"
        repository = Repository(pulp, name or base_path, base_path)
        _read(folder)
        _transfer(folder, repository, sync)
    click.echo(repository.url)
    if any(skipped.is_file for skipped in folder.skipped):
        raise click.exceptions.Exit(1)


def _scan(directory: Path) -> Folder:
    """Return the files of a directory. Raises `click.ClickException` without any."""
    folder = scan(directory)
    if not folder.files:
        _print_skipped(folder.skipped)
        raise click.ClickException(f"There is no file to add in {directory}.")
    return folder


def _read(folder: Folder) -> None:
    """Hash all files, and print those that are skipped."""
    started = time.monotonic()
    total = sum(file.size for file in folder.files.values())
    with click.progressbar(length=total, label="Reading files") as bar:
        hash_files(folder, bar.update)
    _print_skipped(folder.skipped)
    click.echo(f"{len(folder.files)} files, {human_size(total)}, read in {_seconds(started)}.")


def _transfer(folder: Folder, repository: "Repository", sync: bool) -> None:
    """Update the repository to the content of the folder, and publish it."""
    started, printed = time.monotonic(), len(folder.skipped)
    with step("Comparing with what Pulp has"):
        changes = repository.compare(folder)
    if changes:
        with click.progressbar(length=len(changes.transfer), label="Adding files ") as bar:
            changes = repository.apply(changes, folder, sync, bar.update)
        _print_skipped(folder.skipped[printed:])
    with step("Publishing") as current:
        repository.publish("PULP_MANIFEST" in folder.files, current.tick)
    summary = f"{changes} in {_seconds(started)}" if changes else "Nothing has changed"
    click.echo(f"{summary}; {len(folder.skipped)} left out.")


def _print_skipped(skipped: Iterable[Skipped]) -> None:
    for item in skipped:
        click.echo(f"Left out: {printable(item.relative_path)}: {item.reason}", err=True)


def _seconds(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
