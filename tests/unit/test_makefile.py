"""The Makefile finds a Python that will do, and leaves no half-made virtual environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITABLE = "exit 0"
UNSUITABLE = "exit 1"  # too old, too new, or without venv
BREAKS = """case "$1" in -c) exit 0;; esac; mkdir -p "$4/bin"; : > "$4/bin/python"; exit 1"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Clone:
    """A directory with our Makefile, and a PATH with the Pythons of a machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "path"
        self.path.mkdir()
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, directory)
        for program in ("sh", "mkdir", "echo", "test"):
            (self.path / program).symlink_to(str(shutil.which(program)))

    def has(self, name: str, script: str) -> None:
        program = self.path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(shutil.which("make")), *arguments],
            cwd=self.directory,
            env={"PATH": str(self.path), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3"])
def test_first_suitable_python_makes_the_environment(clone: Clone, name: str) -> None:
    names = ["python3.11", "python3.12", "python3.13", "python3"]
    for other in names[: names.index(name)]:
        clone.has(other, UNSUITABLE)
    for other in names[names.index(name) :]:
        clone.has(other, SUITABLE)
    assert f"path/{name} -m venv --clear .venv" in clone.make("-n", ".venv/bin/python").stdout


@pytest.mark.parametrize("target", ["run", "test", "lint", "bench"])
def test_missing_python_is_said_in_one_line(clone: Clone, target: str) -> None:
    clone.has("python3", UNSUITABLE)
    completed = clone.make(target)
    assert completed.returncode == 2
    said, *rest = completed.stderr.splitlines()
    assert said.startswith("No Python 3.11, 3.12 or 3.13 with venv: install ")
    assert len(rest) == 1 and rest[0].startswith("make: ***")
    assert completed.stdout == ""
    assert not (clone.directory / ".venv").exists()


def test_half_made_environment_is_made_again(clone: Clone) -> None:
    clone.has("python3", BREAKS)
    for _ in range(2):
        completed = clone.make("run")
        assert completed.returncode == 2
        assert "-m venv --clear .venv" in completed.stdout
        assert not (clone.directory / ".venv" / "bin" / "python").exists()


def test_python_that_runs_the_tests_is_suitable() -> None:
    completed = subprocess.run(
        [str(shutil.which("make")), "-n", "VENV=.none", ".none/bin/python"],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "-m venv --clear .none" in completed.stdout
