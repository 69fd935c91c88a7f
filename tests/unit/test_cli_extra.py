"""`pulp-star` without the packages of the extra `cli`."""

import subprocess
import sys

import pytest

from pulpcore.content_star.cli import REQUIRED


@pytest.mark.parametrize("package", REQUIRED)
def test_missing_package_names_the_extra_to_install(package: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from pulpcore.content_star.cli import main\n"
        "main('pulp-star')\n"
    )

    completed = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True
    )

    assert completed.returncode == 1
    assert completed.stdout == ""
    assert completed.stderr == (
        f"pulp-star needs {package}, which the extra 'cli' installs: "
        "pip install 'pulp-content-star[cli]'\n"
    )
