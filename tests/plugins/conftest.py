"""A Pulp with native plugins, which are not installed in the tests' own environment."""

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
from tests.support.template import copy_template

EXAMPLE = Path(__file__).parents[2] / "docs" / "plugin_example"
PROBE = Path(__file__).parent / "probe"


class PluggedInstance(Instance):
    """A Pulp whose processes import plugins from directories."""

    plugins: tuple[Path, ...] = ()

    @property
    def client_environ(self) -> dict[str, str]:
        return {**super().client_environ, "PYTHONPATH": python_path(*self.plugins)}


def python_path(*directories: Path) -> str:
    """Return a PYTHONPATH for the packages and entry points in `directories`."""
    return os.pathsep.join(map(str, directories))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example plugin, installed by pip."""
    folder = tmp_path_factory.mktemp("example")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # A copy, so that the build leaves no files in the checkout.
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")
    subprocess.run([*pip, "--no-deps", "--target", str(folder), str(source)], check=True)
    return folder


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the plugin of these tests, laid out as by an installer."""
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
    copy_template(pulp.home)
    pulp.plugins = (example, probe)
    try:
        yield pulp.start()
        assert pulp.stop() == 0, pulp.said()
    finally:
        pulp.remove()


@pytest.fixture(scope="package")
def admin(plugged: PluggedInstance) -> Iterator[httpx.Client]:
    """A client with the administrator's session, which avoids password checks."""
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
    """As `pulp`, for objects that all tests of a module share."""
    api = Pulp(admin, httpx.BasicAuth(plugged.username, plugged.password))
    yield api
    api.cleanup()


@pytest.fixture(scope="package")
def content(plugged: PluggedInstance) -> Iterator[httpx.Client]:
    """An anonymous client of the content app of the instance with plugins."""
    with httpx.Client(base_url=plugged.content_url) as client:
        yield client


@pytest.fixture
def variant(example: Path, probe: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that replaces text of the example plugin and returns its environment."""

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
