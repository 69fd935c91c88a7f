"""Child processes of `pulp-star up`: steps, logs, signals and leftovers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pulpcore.content_star.cli import processes
from pulpcore.content_star.cli.processes import (
    OWNER_VARIABLE,
    Child,
    Stopped,
    Supervisor,
    end_leftovers,
    leftovers,
    program,
    signal_process,
    tail,
)
from tests.support.instance import wait_until


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop()


def start(supervisor: Supervisor, code: str, seconds: float = 10) -> Child:
    child = spawn(supervisor, code, seconds)
    supervisor.children.append(child)
    return child


def spawn(supervisor: Supervisor, code: str, seconds: float = 10) -> Child:
    return supervisor.spawn(
        "child",
        [sys.executable, "-c", code],
        dict(os.environ),
        supervisor.logs,
        ((signal.SIGTERM, seconds),),
    )


def run(supervisor: Supervisor, code: str, stdin: bytes = b"") -> None:
    supervisor.run("step", [sys.executable, "-c", code], dict(os.environ), supervisor.logs, stdin)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except OSError:
        return False


def test_step_reads_stdin_and_logs_stdout(supervisor: Supervisor) -> None:
    run(supervisor, "print(input())", stdin=b"secret\n")
    assert (supervisor.logs / "step.log").read_text() == "secret\n"


def test_failed_step_shows_the_tail_of_its_log(supervisor: Supervisor) -> None:
    with pytest.raises(click.ClickException) as caught:
        run(supervisor, "print('x\\n' * 100); raise SystemExit('it broke')")

    message = caught.value.message
    assert message.startswith("step ended unexpectedly (exit code 1). The end of ")
    assert message.endswith("    it broke")
    assert len(message.splitlines()) == 16


def test_step_ends_when_a_child_process_dies(supervisor: Supervisor) -> None:
    start(supervisor, "raise SystemExit(3)")
    with pytest.raises(click.ClickException, match=r"child ended unexpectedly \(exit code 3\)"):
        run(supervisor, "import time; time.sleep(1000)")


def test_stop_ends_grandchildren(supervisor: Supervisor, tmp_path: Path) -> None:
    code = (
        "import subprocess, time; "
        "print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    )
    child = start(supervisor, code)
    wait_until(lambda: child.log.read_text().strip())
    grandchild = int(child.log.read_text())

    supervisor.stop()

    wait_until(lambda: not is_alive(grandchild))
    assert child.process.returncode == -signal.SIGTERM


def test_stop_kills_a_child_that_ignores_sigterm(supervisor: Supervisor) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); time.sleep(1000)"
    )
    child = start(supervisor, code, seconds=0.1)
    wait_until(lambda: "ready" in child.log.read_text())

    supervisor.stop()

    assert child.process.returncode == -signal.SIGKILL


def test_signal_between_steps_is_handled(supervisor: Supervisor) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    try:
        supervisor.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            supervisor.watch(lambda: None)
    finally:
        for number, handler in zip(
            (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), before, strict=True
        ):
            signal.signal(number, handler)


def test_child_that_ends_is_started_again(supervisor: Supervisor, capsys) -> None:
    supervisor.restart = lambda child: spawn(supervisor, "import time; time.sleep(1000)")
    first = start(supervisor, "raise SystemExit(3)")

    def is_replaced() -> bool:
        supervisor.check()
        return supervisor.children[0] is not first

    wait_until(is_replaced)
    assert len(supervisor.children) == 1 and supervisor.children[0].process.poll() is None
    said = capsys.readouterr().out
    assert said.startswith("child ended (exit code 3), starting it again in 0.5 s.")
    assert said.count("\n") == 1


def test_child_that_keeps_ending_is_given_up(supervisor: Supervisor, capsys, monkeypatch) -> None:
    monkeypatch.setattr(processes, "GIVE_UP_AFTER", 3)
    starts = []

    def restart(child: Child) -> Child:
        starts.append(child)
        return spawn(supervisor, "raise SystemExit('it broke')")

    supervisor.restart = restart
    start(supervisor, "raise SystemExit(3)")
    with pytest.raises(click.ClickException) as caught:
        supervisor.wait_until(lambda: False, 300, "Waiting")
    assert caught.value.message.startswith("Starting child again is in vain. child ended")
    assert caught.value.message.endswith("it broke")
    assert len(starts) >= 2
    said = capsys.readouterr().out
    assert "again in 0.5 s." in said and "again in 1 s." in said, "with back-off"


def test_wait_has_a_timeout(supervisor: Supervisor) -> None:
    with pytest.raises(click.ClickException, match=r"Rain took longer than 0 seconds\."):
        supervisor.wait_until(lambda: False, 0, "Rain")


def test_log_of_an_earlier_start_is_kept(supervisor: Supervisor) -> None:
    run(supervisor, "print('first')")
    run(supervisor, "print('second')")
    assert (supervisor.logs / "step.log.old").read_text() == "first\n"


def test_tail_of_an_empty_log_is_empty(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert tail(tmp_path / "log") == "    (empty)"


def test_programs_are_found_in_the_virtual_environment() -> None:
    assert program("uvicorn").parent == Path(sys.executable).parent
    with pytest.raises(click.ClickException, match="no-such-program is not installed"):
        program("no-such-program")


def test_full_log_is_rotated_while_the_process_writes(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 1000)
    code = (
        "import sys, time; print('before ' * 200, flush=True); "
        "import pathlib\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "print('after', flush=True); raise SystemExit(5)"
    )
    child = start(supervisor, code)
    old = supervisor.logs / "child.log.old"
    supervisor.on_wait = lambda: old.exists() and (supervisor.logs / "go").touch()

    with pytest.raises(click.ClickException, match="exit code 5"):
        supervisor.watch(lambda: None)

    assert old.read_text() == "before " * 200 + "\n"
    assert child.log.read_text() == "after\n"
    assert {path.stat().st_mode & 0o777 for path in (old, child.log)} == {0o600}


def test_log_that_is_a_symlink_is_replaced_and_not_followed(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "step.log").symlink_to(target)

    run(supervisor, "print('output')")

    assert target.read_text() == "precious"
    assert (tmp_path / "step.log").read_text() == "output\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of others")
def test_process_of_another_user_is_no_leftover(tmp_path: Path) -> None:
    marked = {**os.environ, OWNER_VARIABLE: str(tmp_path)}
    processes_of = [
        subprocess.Popen(["sleep", "1000"], env=marked, user=user) for user in (0, 65534)
    ]
    ours, theirs = processes_of
    try:
        wait_until(lambda: leftovers(tmp_path) == [ours.pid])

        assert end_leftovers(tmp_path) == 1

        assert ours.wait(300) == -signal.SIGKILL
        assert theirs.poll() is None
    finally:
        for process in processes_of:
            process.kill()
            process.wait()


def test_process_that_does_not_match_is_not_signalled() -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        answers = iter([True, False])  # its id went to another process in between
        signal_process(bystander.pid, signal.SIGKILL, lambda pid: next(answers))
        assert bystander.poll() is None
        signal_process(bystander.pid, signal.SIGKILL, lambda pid: True)
        assert bystander.wait(300) == -signal.SIGKILL
    finally:
        bystander.kill()
        bystander.wait()
