"""`pulp-star status`, `password` and `logs`, and the configuration for `pulp-cli`."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest

from pulpcore.content_star import __version__
from pulpcore.content_star.cli.state import Instance as CliInstance
from pulpcore.content_star.cli.state import State
from tests.support.instance import Instance, in_venv, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped(instance: Instance, tmp_path: Path) -> State:
    """A state directory without running processes."""
    state = State(tmp_path / "home")
    state.create()
    state.save(CliInstance("127.0.0.1", 9, str(state.database)))
    return state


def login(instance: Instance, password: str) -> int:
    url = f"{instance.url}/pulp/api/v3/users/"
    return httpx.get(url, auth=("admin", password)).status_code


def test_status_of_a_running_pulp(instance: Instance) -> None:
    said = instance.star("status").stdout

    assert f"Pulp in {instance.home}\n" in said
    assert re.search(rf"^  Running   since 20\S+ [\d:]+, pid {instance.pid}$", said, re.MULTILINE)
    assert f"  Address   {instance.url}\n" in said
    assert f"content_star {__version__}" in said
    assert "  Workers   1 online\n" in said
    assert re.search(
        r"^  Disk      [\d.]+ [MG]iB: content .*, database [\d.]+ [MG]iB, other ",
        said,
        re.MULTILINE,
    )


def test_status_of_a_stopped_pulp_has_exit_code_3(instance: Instance, stopped: State) -> None:
    completed = instance.star("status", "--home", str(stopped.home), check=False)
    assert completed.returncode == 3
    assert "  Stopped   it was started last at 20" in completed.stdout
    assert "  Disk " in completed.stdout


def test_status_of_a_pulp_that_does_not_answer_has_exit_code_1(
    instance: Instance, stopped: State
) -> None:
    with stopped.locked():
        completed = instance.star("status", "--home", str(stopped.home), check=False)
    assert completed.returncode == 1
    assert f"pid {os.getpid()}" in completed.stdout
    assert "  API       does not answer" in completed.stdout


def test_password_prints_the_password_alone(instance: Instance) -> None:
    completed = instance.star("password")
    assert completed.stdout == f"{instance.password}\n"
    assert completed.stderr == ""


def test_password_reset_replaces_the_old_password(instance: Instance) -> None:
    old = instance.password
    assert login(instance, old) == 200

    new = instance.star("password", "--reset").stdout.strip()

    assert new == instance.password != old
    assert login(instance, new) == 200
    assert login(instance, old) == 401
    assert new in instance.state.pulp_cli_config.read_text()
    assert instance.state.password_file.stat().st_mode & 0o777 == 0o600
    assert "hello" in instance.star("list").stdout


def test_password_reset_needs_a_running_pulp(instance: Instance, stopped: State) -> None:
    before = stopped.password
    completed = instance.star("password", "--reset", "--home", str(stopped.home), check=False)
    assert completed.returncode == 1
    assert f"start `pulp-star up --home {stopped.home}`" in completed.stderr
    assert len(completed.stderr.splitlines()) == 1
    assert stopped.password == before


def test_logs_are_those_of_the_servers(instance: Instance) -> None:
    said = instance.star("logs", "-n", "5").stdout
    for name in ("postgres", "pulpcore-worker", "uvicorn"):
        assert f"==> {instance.state.logs / name}.log <==" in said
    assert len(said.splitlines()) <= 3 * 7


def test_logs_of_one_process(instance: Instance) -> None:
    said = instance.star("logs", "uvicorn", "--lines", "1000000").stdout
    assert "Application startup complete" in said
    assert "==>" not in said


def test_logs_of_an_unknown_name_are_an_error_that_names_the_known(instance: Instance) -> None:
    completed = instance.star("logs", "../../etc/passwd", check=False)
    assert completed.returncode == 1
    assert "There is no log ../../etc/passwd" in completed.stderr
    assert "postgres, pulpcore-worker, uvicorn" in completed.stderr


def test_logs_are_followed_also_when_they_are_rotated(
    instance: Instance, stopped: State, tmp_path: Path
) -> None:
    log, output = stopped.logs / "uvicorn.log", tmp_path / "output"
    log.write_text("first\n")
    command = [sys.executable, "-m", "pulpcore.content_star.cli", "logs", "-f", "uvicorn"]
    process = instance.spawn([*command, "--home", str(stopped.home)], output)
    wait_until(lambda: "first" in output.read_text())

    with log.open("a") as file:
        file.write("second\n")
    wait_until(lambda: "second" in output.read_text())
    log.rename(log.with_suffix(".log.old"))
    log.write_text("after a restart\n")
    wait_until(lambda: "after a restart" in output.read_text())

    process.send_signal(signal.SIGINT)
    assert process.wait(300) in (-signal.SIGINT, 128 + signal.SIGINT)


def test_pulp_cli_works_with_the_printed_command(instance: Instance, tmp_path: Path) -> None:
    if not Path(in_venv(["pulp"])[0]).is_absolute():
        pytest.skip("pulp-cli is not installed")
    [line] = [line for line in instance.said().splitlines() if line.startswith("  pulp --config ")]
    words = line.split("    (")[0].split()
    assert words[-1] == "status"

    status = json.loads(instance.run(words, HOME=str(tmp_path)).stdout)
    assert status["database_connection"]["connected"]

    listing = instance.run([*words[:-1], "file", "distribution", "list"], HOME=str(tmp_path))
    assert "hello" in {entity["name"] for entity in json.loads(listing.stdout)}
