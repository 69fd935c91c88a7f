"""`pulp-star env`: Pulp's own commands on the state of a running `pulp-star up`."""

import shlex
import sys
from pathlib import Path

import pytest

from pulpcore.content_star.cli.commands import group
from tests.support.instance import Instance, in_venv

pytestmark = pytest.mark.slow


def exports(text: str) -> dict[str, str]:
    """Return the variables that a shell would set from `text`."""
    words = [shlex.split(line) for line in text.splitlines()]
    assert all(len(line) == 2 and line[0] == "export" for line in words), text
    return {name: value for name, _, value in (line[1].partition("=") for line in words)}


def test_env_prints_only_exports_of_pulp(instance: Instance) -> None:
    completed = instance.star("env")

    found = exports(completed.stdout)
    assert found.pop("PATH") == f"{Path(sys.executable).parent}:$PATH"
    assert found == instance.environ
    assert completed.stderr == ""
    assert all(name.startswith(("PULP_", "DJANGO_SETTINGS_MODULE")) for name in instance.environ)


def test_env_exports_no_secrets(instance: Instance) -> None:
    text = "".join(instance.environ.values())

    assert instance.password not in text
    assert "SECRET_KEY" in instance.state.settings.read_text()
    assert "SECRET_KEY" not in "".join(instance.environ)


def test_env_lets_a_management_command_use_the_same_state(instance: Instance) -> None:
    star, manager = in_venv(["pulp-star"])[0], in_venv(["pulpcore-manager"])[0]
    script = f'eval "$({shlex.quote(star)} env)" && {shlex.quote(manager)} dumpdata auth.user'

    completed = instance.run(["sh", "-c", script])

    assert '"username": "admin"' in completed.stdout


@pytest.mark.parametrize("command", [[], *([name] for name in group.commands)])
def test_help_of_every_command(instance: Instance, command: list[str]) -> None:
    text = instance.star(*command, "--help").stdout
    assert "Usage: pulp-star" in text
    # `compare` needs two URLs, and no state directory.
    assert command in ([], ["compare"]) or "--home" in text


@pytest.mark.parametrize(
    "command", [["env"], ["list"], ["remove", "x"], ["status"], ["password"], ["logs"]]
)
def test_command_without_a_state_directory_is_an_error(
    instance: Instance, tmp_path: Path, command: list[str]
) -> None:
    completed = instance.star(*command, "--home", str(tmp_path / "none"), check=False)

    home = tmp_path / "none"
    assert completed.returncode == (3 if command == ["status"] else 1)
    assert completed.stdout == ""
    assert completed.stderr == (
        f"Error: There is no Pulp in {home} yet: start one with `pulp-star up --home {home}`.\n"
    )
    assert len(completed.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()
