"""The package as installed by pip: from a wheel, and as an editable checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.support.server import free_port, running
from tests.support.versions import since

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(PROJECT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """The `bin` directory of an empty virtual environment."""
    folder = tmp_path_factory.mktemp("venv")
    run(
        sys.executable, "-m", "venv", "--without-pip", str(folder)
    )  # pip of this environment installs into it
    return folder / "bin"


def run(*command: str, cwd: Path | None = None) -> str:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PULP_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(programs: Path, *arguments: str) -> None:
    python = str(programs / "python")
    run(sys.executable, "-m", "pip", "--python", python, "--quiet", *arguments)


def test_wheel_has_no_init_of_the_namespace_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "pulpcore/routing.py" in names
    assert "pulpcore/content_star/app/templates/content_star/listing.html" in names
    assert "pulpcore/__init__.py" not in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pulpcore"}


@since("3.123.1")  # pip installs the newest pulpcore
def test_package_installs_from_a_wheel_and_editable(wheel, clean, instance, tmp_path):
    pip(clean, "install", f"{wheel}[cli]")
    assert_works(clean, instance, tmp_path)
    pip(clean, "uninstall", "--yes", "pulp-content-star")
    pip(clean, "install", "--editable", f"{PROJECT}[cli]")
    assert_works(clean, instance, tmp_path)


def assert_works(programs: Path, instance, cwd: Path) -> None:
    """Start the installed programs, outside of the checkout, on the instance's state."""
    version = run(str(programs / "pulp-star"), "--version", cwd=cwd)
    assert "pulp-star" in version
    environ = {"PYTHONPATH": "", "PATH": f"{programs}:{os.environ['PATH']}"}
    port = free_port()
    command = [str(programs / "uvicorn"), "pulpcore.routing:application", "--port", str(port)]
    with running(instance, command, f"http://127.0.0.1:{port}", **environ) as server:
        assert httpx.get(f"{server.content_url}hello/hello.txt").text == "Hello from Pulp!\n"
        versions = httpx.get(f"{server.url}/pulp/api/v3/status/").json()["versions"]
        assert {"core", "content_star"} <= {version["component"] for version in versions}


def test_command_imports_neither_django_nor_pulp():
    code = (
        "import sys, pulpcore.content_star.cli.commands;"
        "print(sorted({'django', 'pulpcore.app'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", code, cwd=PROJECT).strip() == "[]"
