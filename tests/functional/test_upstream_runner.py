"""The runner of upstream's tests, as a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.instance import wait_until, working_below

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_pulp_of_upstream_tests(number):
    with tempfile.TemporaryDirectory(prefix="up-") as folder:  # short: sockets have names in it
        Path(folder).chmod(0o755)
        runner = subprocess.Popen(
            [sys.executable, "-m", "tests.upstream_functional", "core", "--collect-only"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            # The Pulp: what serves fixtures works in another directory.
            wait_until(lambda: any(map(working_below, Path(folder).glob("star-*"))))
            assert runner.poll() is None
            runner.send_signal(number)
            assert runner.wait(300)
            assert working_below(Path(folder)) == []
            assert not list(Path(folder).glob("star-*"))
        finally:
            runner.kill()
