"""`pulp-star status`: state, versions, workers and disk usage of Pulp."""

import json
import os
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from pulpcore.content_star.cli.folder import human_size
from pulpcore.content_star.cli.state import Instance, NotCreated, State, home_option

_NOT_RUNNING = 3
"""Exit code of LSB init scripts and systemctl for a service that is not running."""


@click.command("status")
@home_option
def command(state: State) -> None:
    """Print whether Pulp runs, its start time, address, versions, workers and disk usage.

    The exit code is 0 if it answers, 3 if it does not run or does not exist, and 1 if it runs and
    does not answer (yet) or the state directory cannot be used.
    """
    try:
        instance = state.load()
    except NotCreated as error:
        error.show()
        raise click.exceptions.Exit(_NOT_RUNNING) from None
    code = 0
    click.echo(f"Pulp in {state.home}")
    if not state.is_running():
        _print("Stopped", f"it was started last at {_started(state)}; start it: {state.up_command}")
        code = _NOT_RUNNING
    else:
        _print("Running", f"since {_started(state)}, pid {state.lock_pid()}")
        code = _print_api(instance)
    _print("Disk", _disk(state))
    raise click.exceptions.Exit(code)


def fetch_status(instance: Instance) -> dict[str, Any] | None:
    """Return the status of the API, None if it does not answer.

    No HTTP proxy is used, since the address may be a loopback address.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{instance.url}/pulp/api/v3/status/", timeout=10) as response:
            status: dict[str, Any] = json.load(response)
    except (OSError, ValueError):
        return None
    return status


def _print_api(instance: Instance) -> int:
    _print("Address", instance.url)
    status = fetch_status(instance)
    if status is None:
        _print("API", "does not answer; it starts, or look into: pulp-star logs uvicorn")
        return 1
    versions = (f"{entry['component']} {entry['version']}" for entry in status["versions"])
    _print("Versions", ", ".join(versions))
    _print("Workers", f"{len(status['online_workers'])} online")
    return 0


def _started(state: State) -> str:
    return datetime.fromtimestamp(state.instance_file.stat().st_mtime).isoformat(" ", "seconds")


def _disk(state: State) -> str:
    content, database, all_of_it = map(_used, (state.media, state.database, state.home))
    return (
        f"{human_size(all_of_it)}: content {human_size(content)}, "
        f"database {human_size(database)}, other {human_size(all_of_it - content - database)}"
    )


def _used(directory: Path) -> int:
    """Return the disk usage below a directory in bytes."""
    return sum(status.st_blocks * 512 for status in _statuses(directory))


def _statuses(directory: Path) -> Iterator[os.stat_result]:
    """Yield the stat results of all entries below a directory, except deleted ones."""
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            try:
                yield os.lstat(Path(folder, name))
            except FileNotFoundError:
                continue


def _print(label: str, text: str) -> None:
    click.echo(f"  {label:<9} {text}")
