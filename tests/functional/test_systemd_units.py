"""The systemd units in deploy/systemd: their syntax, and their command's socket and reload."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.functional.test_restart import workers
from tests.support.instance import wait_until
from tests.support.server import running

pytestmark = pytest.mark.slow

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")


def command_of_unit() -> list[str]:
    """Return the words of `ExecStart`."""
    text = (UNITS / "pulp.service").read_text().replace("\\\n", " ")
    match = re.search(r"^ExecStart=(.*)$", text, flags=re.M)
    assert match
    return shlex.split(match[1])


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
def test_systemd_units_are_valid(tmp_path):
    for name in ("pulp.service", "pulp.socket"):
        # The unit's program is not installed.
        text = re.sub(r"/usr/local/lib/pulp/bin/uvicorn", "/bin/true", (UNITS / name).read_text())
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in ("pulp.service", "pulp.socket")]
    completed = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert not [line for line in completed.stderr.splitlines() if "pulp." in line], completed.stderr


def test_systemd_service_command_serves_on_its_socket_and_reloads(instance):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        program, *arguments = command_of_unit()
        arguments[arguments.index("--fd") + 1] = str(listener.fileno())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [Path(program).name, *arguments]
        with running(instance, command, url, pass_fds=[listener.fileno()]) as server:
            wait_until(lambda: len(workers(server)) == 2, explain=server.said)
            old = workers(server)
            os.kill(server.process.pid, signal.SIGHUP)
            wait_until(lambda: len(workers(server) - old) == 2, explain=server.said)
            wait_until(lambda: not workers(server) & old, explain=server.said)
            assert httpx.get(f"{server.content_url}livez").status_code == 200
