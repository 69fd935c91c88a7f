"""A Pulp of the session that cannot start stops the run, with that as its error."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FILES = ("tests/functional/test_json_listing.py", "tests/functional/test_pages.py")


@pytest.mark.parametrize("options", [(), ("-n", "2", "--dist", "loadfile")], ids=["one", "xdist"])
def test_session_without_pulp_stops_with_one_short_error(pytestconfig, options):
    ours = ("PYTEST_", "PULP_STAR_TEST_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.start_fails"]
    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, *FILES],
        env=environ,
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "The shared Pulp cannot start: PostgreSQL did not answer in time" in output
    assert output.count("ERROR at setup") <= 2 and len(output) < 10_000
