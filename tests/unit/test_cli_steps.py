"""Progress of long steps, on a terminal and in a log."""

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pulpcore.content_star.cli import steps
from pulpcore.content_star.cli.processes import Supervisor


def on_a_terminal(code: str) -> str:
    """What Python code prints on a terminal, to its end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs)
    os.close(theirs)
    output = b""
    with suppress(OSError):  # EIO: the other end is closed
        while data := os.read(ours, 4096):
            output += data
    os.close(ours)
    assert process.wait(300) == 0
    return output.decode()


def test_progress_is_drawn_over_on_a_terminal() -> None:
    shown = on_a_terminal(
        "from pulpcore.content_star.cli import steps\n"
        "steps.TERMINAL_SECONDS = 0\n"
        "with steps.step('Applying', lambda: '3 of 9') as step: step.tick()"
    )
    clear = re.escape("\r\x1b[K")
    lines = (
        rf"Applying \.\.\. {clear}Applying \.\.\. 3 of 9, \d+ s{clear}Applying \.\.\. [\d.]+ s\r\n"
    )
    assert re.fullmatch(lines, shown)


def test_progress_is_added_to_the_line_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LOG_SECONDS", 0)
    with steps.step("Applying", lambda: "3 of 9") as step:
        step.tick()
    shown = capsys.readouterr().out
    assert re.fullmatch(r"Applying \.\.\. 3 of 9, \d+ s \.\.\. [\d.]+ s\n", shown)


def test_quick_step_shows_no_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LOG_SECONDS", 300)
    with steps.step("Applying", lambda: "3 of 9") as step:
        step.tick()
    assert "3 of 9" not in capsys.readouterr().out


def test_progress_is_shown_while_a_process_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LOG_SECONDS", 0)
    supervisor, asked = Supervisor(tmp_path), tmp_path / "asked"

    def detail() -> str:
        asked.touch()
        return "half way"

    code = "import pathlib, time\nwhile not pathlib.Path('asked').exists(): time.sleep(0.01)"
    with supervisor.step("Working", detail):
        supervisor.run("step", [sys.executable, "-c", code], dict(os.environ), tmp_path)

    assert re.match(r"Working \.\.\. half way, \d+ s \.\.\. ", capsys.readouterr().out)
