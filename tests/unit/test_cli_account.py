"""PostgreSQL's account, which root runs the server as."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulpcore.content_star.cli.postgres import programs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs others' processes")

# Of root in a container, which cannot read below directories of others' accounts.
IN_CONTAINER = ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-all", "--"]

# Starts the server of a new state directory, and stops it.
START = """
import sys
from pathlib import Path
from pulpcore.content_star.cli import postgres
from pulpcore.content_star.cli.processes import Supervisor
from pulpcore.content_star.cli.state import State

import click

home, programs = map(Path, sys.argv[1:])
state = State(home)
supervisor = Supervisor(state.logs)
try:
    state.create()
    postgres.create(state, supervisor, programs)
    postgres.start(state, supervisor, programs)
    print("PostgreSQL answers.")
except click.ClickException as error:
    print(error.message)
finally:
    supervisor.stop()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users can enter, for directories with other modes."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start(home: Path, programs: Path, prefix: list[str]) -> str:
    command = [*prefix, sys.executable, "-c", START, str(home), str(programs)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def installed_in(folder: Path) -> Path:
    """Copy the package of PostgreSQL, and return the directory of its programs."""
    package = programs().parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    for part in (package, libraries):
        shutil.copytree(part, folder / part.name)
    return folder / package.name / "pginstall" / "bin"


@as_root
def test_postgresql_starts_in_a_container(folder: Path) -> None:
    home = folder / "state"
    assert "PostgreSQL answers." in start(home, installed_in(folder), IN_CONTAINER)
    assert home.stat().st_mode & 0o777 == 0o711


@as_root
def test_postgresql_starts_below_a_private_directory(folder: Path) -> None:
    folder.chmod(0o700)
    home = folder / "state"
    assert "PostgreSQL answers." in start(home, installed_in(folder), [])
    assert home.stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.parametrize("private", ["programs", "home"])
def test_private_directory_in_a_container_is_named_with_a_remedy(
    folder: Path, private: str
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    home = (closed if private == "home" else folder) / "state"
    bin_folder = installed_in(closed if private == "programs" else folder)
    assert f"chmod o+x {closed}, or run" in start(home, bin_folder, IN_CONTAINER)
    assert not (home / "database").exists()
