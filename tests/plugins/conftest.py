"""A Pulp with plugins that know the contract, of which the tests' own environment sees nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.instance import Instance
from tests.support.pulp import Pulp

EXAMPLE = Path(__file__).parents[2] / "docs" / "plugin_example"
PROBE = Path(__file__).parent / "probe"


class PluggedInstance(Instance):
    """A Pulp whose processes find the plugins of some directories."""

    plugins: tuple[Path, ...] = ()

    @property
    def client_environ(self) -> dict[str, str]:
        return {**super().client_environ, "PYTHONPATH": python_path(*self.plugins)}


def python_path(*directories: Path) -> str:
    """What makes a process find the packages in `directories`, and their entry points."""
    return os.pathsep.join(map(str, directories))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which pip has installed the example plugin."""
    folder = tmp_path_factory.mktemp("example")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # A build leaves nothing in the checkout.
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")
    subprocess.run([*pip, "--no-deps", "--target", str(folder), str(source)], check=True)
    return folder


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the plugin of these tests, as an installer would have left it."""
    folder = tmp_path_factory.mktemp("probe") / "site"
    shutil.copytree(PROBE, folder)
    info = folder / "pulp_probe-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pulp-probe\nVersion: 1\n")
    entry_point = "[pulpcore.plugin]\npulp_probe = pulp_probe:default_app_config\n"
    (info / "entry_points.txt").write_text(entry_point)
    return folder


@pytest.fixture(scope="package")
def plugged(example: Path, probe: Path) -> Iterator[PluggedInstance]:
    """A Pulp with both plugins."""
    pulp = PluggedInstance.temporary()
    pulp.plugins = (example, probe)
    try:
        yield pulp.start()
        assert pulp.stop() == 0, pulp.said()
    finally:
        pulp.remove()


@pytest.fixture(scope="package")
def admin(plugged: PluggedInstance) -> Iterator[httpx.Client]:
    """A browser in which the administrator has logged in; checking passwords takes time."""
    with plugged.client() as client:
        yield client


@pytest.fixture
def pulp(plugged: PluggedInstance, admin: httpx.Client) -> Iterator[Pulp]:
    """The REST API of the instance with plugins."""
    api = Pulp(admin, httpx.BasicAuth(plugged.username, plugged.password))
    yield api
    api.cleanup()


@pytest.fixture(scope="module")
def module_pulp(plugged: PluggedInstance, admin: httpx.Client) -> Iterator[Pulp]:
    """As `pulp`, for what all tests of a module look at."""
    api = Pulp(admin, httpx.BasicAuth(plugged.username, plugged.password))
    yield api
    api.cleanup()


@pytest.fixture(scope="package")
def content(plugged: PluggedInstance) -> Iterator[httpx.Client]:
    """The content app of the instance with plugins, as an anonymous client."""
    with httpx.Client(base_url=plugged.content_url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def variant(example: Path, probe: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Install the example plugin with some of its text replaced; returns the environment for it."""

    def make(file: str, old: str, new: str) -> dict[str, str]:
        folder = tmp_path / "variant"
        if not folder.exists():
            shutil.copytree(example, folder, ignore=shutil.ignore_patterns("__pycache__"))
        module = folder / "pulp_example" / "app" / file
        text = module.read_text()
        assert old in text
        module.write_text(text.replace(old, new))
        return {"PYTHONPATH": python_path(folder, probe)}

    return make
