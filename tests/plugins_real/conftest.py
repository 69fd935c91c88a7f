"""A Pulp with all plugins on Debian's PostgreSQL, and upstream's content app beside it."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import STATE, start_or_stop
from tests.plugins_real.plugin import serving_mode
from tests.plugins_real.table import Table
from tests.support.instance import Instance
from tests.support.orm import connect, disconnect
from tests.support.pulp import Pulp
from tests.support.remote_server import Upstream, serving_upstream
from tests.support.server import Server, free_port, running, serving_theirs

SETTINGS = """
ANSIBLE_API_HOSTNAME = "@format {{this.CONTENT_ORIGIN}}"
PYPI_API_HOSTNAME = "@format {{this.CONTENT_ORIGIN}}"
TOKEN_SERVER = "@format {{this.CONTENT_ORIGIN}}/token/"
TOKEN_SIGNATURE_ALGORITHM = "ES256"
PUBLIC_KEY_PATH = {public!r}
PRIVATE_KEY_PATH = {private!r}
APT_BY_HASH = True
"""
"""Origins and paths for the links of plugins, and the keys of pulp_container's tokens."""


START_SECONDS = 3600
"""The bound of a start, for broken code only: all plugins have some 190 migrations."""

UVICORN = Path(sys.executable).with_name("uvicorn")

INSTALLED = all(find_spec(name) for name in ("pulp_ansible", "pulp_container", "pulp_rpm"))
if not INSTALLED:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str | None:
    return None if INSTALLED else "tests/plugins_real: no plugins, run `make test-plugins`"


def pytest_configure(config: pytest.Config) -> None:
    if INSTALLED:
        config.pluginmanager.register(Table(), "table")


def postgres_with_icu() -> Path:
    """Return the programs of Debian's newest PostgreSQL: pulp_ansible's migrations need ICU."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.exit("pulp_ansible needs a PostgreSQL with ICU: apt-get install postgresql", 2)
    return found[-1].parent


@pytest.fixture(scope="session")
def instance(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Instance]:
    """The Pulp of the session with all plugins, instead of the one without."""
    public, private = STATE.home / "token.pub", STATE.home / "token.key"
    keys(public, private)
    with STATE.settings.open("a") as file:
        file.write(SETTINGS.format(public=str(public), private=str(private)))
    pulp = Instance(STATE.home, ("--port", "0", "--postgres", str(postgres_with_icu())))
    try:
        connect(start_or_stop(request.session, pulp, START_SECONDS).address)
        pytestconfig.pluginmanager.get_plugin("table").load_reports(pulp.content_url)
        yield pulp
        disconnect()
        assert pulp.stop() == 0, pulp.said()
    finally:
        pulp.remove()


def keys(public: Path, private: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@pytest.fixture(scope="session")
def upstream(instance: Instance) -> Iterator[str]:
    """The origin of upstream's content app, without a slash at the end."""
    with serving_theirs(instance) as server:
        yield server.url


def ours(instance: Instance, **environ: str) -> AbstractContextManager[Server]:
    """Run another server of ours, with itself as the origin of the links of plugins."""
    url = f"http://127.0.0.1:{free_port()}"
    command = ["uvicorn", "pulpcore.routing:application", "--port", url.rpartition(":")[2]]
    return running(instance, command, url, PULP_CONTENT_ORIGIN=url, **environ)


@pytest.fixture(scope="session")
def redirecting(instance: Instance) -> Iterator[Server]:
    """A server without internal redirects of the API."""
    with ours(instance, PULP_CONTENT_STAR_INTERNAL_REDIRECT="false") as server:
        yield server


@pytest.fixture(scope="session")
def proxying(instance: Instance, upstream: str) -> Iterator[Server]:
    """A server that proxies legacy plugins to `upstream`."""
    with ours(instance, **serving_mode("proxy", upstream)) as server:
        yield server


@pytest.fixture(scope="session")
def refusing(instance: Instance) -> Iterator[Server]:
    """A server that refuses legacy plugins."""
    with ours(instance, **serving_mode("refuse")) as server:
        yield server


@pytest.fixture(scope="session")
def unwritable(instance: Instance) -> Iterator[Server]:
    """A server that was started in an unwritable directory."""
    url = f"http://127.0.0.1:{free_port()}"
    start = (
        f"import os, sys; os.chdir('/proc'); os.execv({str(UVICORN)!r}, ['uvicorn', *sys.argv[1:]])"
    )
    port = url.rpartition(":")[2]
    command = ["python", "-c", start, "pulpcore.routing:application", "--port", port]
    with running(instance, command, url) as server:
        yield server


@pytest.fixture
def servers(instance: Instance, upstream: str, unwritable: Server) -> list[str]:
    """The origins of upstream's content app and of all servers that fetch from remotes."""
    return [upstream, instance.url, unwritable.url]


@pytest.fixture(params=["instance", "redirecting", "proxying"])
def origin(request: pytest.FixtureRequest) -> str:
    """The origin of each server that clients use, without a slash at the end."""
    return str(request.getfixturevalue(request.param).url)


@pytest.fixture(scope="module")
def api(instance: Instance) -> Iterator[Pulp]:
    """The REST API; objects created by a module are deleted after its tests."""
    client = instance.pulp()
    yield client
    client.cleanup()


@pytest.fixture
def far() -> Iterator[Upstream]:
    """An HTTP server for remotes to point at."""
    with serving_upstream() as server:
        yield server


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to build packages in."""
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home for a client."""
    return tmp_path
