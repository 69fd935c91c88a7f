"""Fixtures of all tests."""

import logging
import shutil
import signal
import ssl
from collections.abc import Iterator
from inspect import unwrap
from types import FrameType

import httpx
import hypothesis
import pytest

from tests.support import schema_check
from tests.support.instance import START_SECONDS, Instance
from tests.support.orm import Orm, configure, connect, disconnect
from tests.support.pulp import Pulp
from tests.support.server import Server, serving
from tests.support.stores import STORES, Store, google_credentials
from tests.support.template import make_template, one_at_a_time, use_template

# Before any test module is imported: most of them import models, which need Django's settings.
STATE = configure()

logging.getLogger("httpx").setLevel(logging.WARNING)

# httpx waits 5 s for a response, uses the environment's proxies, takes 20 ms of CPU to read the
# system's certificates for each client, and keeps an idle connection for as long as uvicorn does: a
# request must not go out on a connection that is just being closed.
DEFAULTS = {
    "timeout": httpx.Timeout(300),
    "trust_env": False,
    "verify": ssl.create_default_context(),
}
SENDERS = (httpx.request, httpx.stream, httpx.get, httpx.options, httpx.head, httpx.post, httpx.put)
for function in (*SENDERS, httpx.patch, httpx.delete):
    unwrap(function).__kwdefaults__.update(DEFAULTS)
for client in (httpx.Client, httpx.AsyncClient):
    client.__init__.__kwdefaults__.update(
        **DEFAULTS,
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2),
    )

schema_check.install()

# The same examples in each run, without a deadline.
hypothesis.settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# A background job of a shell ignores these signals, and child processes of the tests would too.
# With Python's own handler of SIGINT, `asyncio.run` formats its result twice, whole files in it, to
# look up a handler of its own (seen with Python 3.11).
signal.signal(signal.SIGINT, interrupt)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_unconfigure() -> None:
    shutil.rmtree(STATE.home.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of asynchronous tests, as uvicorn's."""
    return "asyncio"


def start_or_stop(
    session: pytest.Session, pulp: Instance, seconds: float = START_SECONDS
) -> Instance:
    """Start the session's Pulp, or stop the session: nearly every test would fail with it.

    With pytest-xdist, the text of `pytest.exit` would be lost.
    """
    try:
        return pulp.start(seconds)
    except (AssertionError, OSError) as error:
        session.shouldstop = "the shared Pulp cannot start"
        pytest.fail(f"The shared Pulp cannot start: {str(error)[-5000:]}", pytrace=False)


@pytest.fixture(scope="session")
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """The Pulp of the session, shared by all tests: use unique names."""
    pulp = Instance(STATE.home)
    try:
        with one_at_a_time():
            if not use_template(pulp.home):
                connect(start_or_stop(request.session, pulp).address)
                make_template(pulp)
        if pulp.process is None:
            connect(start_or_stop(request.session, pulp).address)
        yield pulp
        disconnect()
        assert pulp.stop() == 0, pulp.said()
    finally:
        pulp.remove()


@pytest.fixture
def pulp(instance: Instance) -> Iterator[Pulp]:
    """The REST API of the instance; objects created with it are deleted after the test."""
    client = instance.pulp()
    yield client
    client.cleanup()


@pytest.fixture
def orm(instance: Instance) -> Iterator[Orm]:
    """Pulp's models, on the instance's database; objects are deleted after the test."""
    models = Orm()
    yield models
    models.cleanup()


@pytest.fixture(scope="session")
def content(instance: Instance) -> Iterator[httpx.Client]:
    """An anonymous client of the instance's content app, for paths below the content root."""
    with httpx.Client(base_url=instance.content_url) as client:
        yield client


@pytest.fixture(scope="session", params=list(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An object store of each kind."""
    with STORES[request.param]() as store:
        yield store


@pytest.fixture(scope="session")
def with_domains(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server with domains and credentials for Google Cloud Storage."""
    key = tmp_path_factory.mktemp("google") / "key.json"
    return {"PULP_DOMAIN_ENABLED": "true", **google_credentials(key)}


@pytest.fixture(scope="session")
def domains(instance: Instance, with_domains: dict[str, str]) -> Iterator[Server]:
    """A server on the instance with domains."""
    with serving(instance, **with_domains) as server:
        yield server
