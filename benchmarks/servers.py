"""The servers that are compared, each with one worker process and a port of its own on loopback."""

import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.instance import Instance, wait_until
from tests.orm import configure, connect, disconnect
from tests.server import Server, free_port, running, serving

QUIET = ("--no-access-log", "--log-level", "warning")
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Contestant:
    """A server that can be started on an instance."""

    name: str
    start: Callable[[Instance], AbstractContextManager[Server]]
    loop_path: str = "/"
    """What is answered without asking anybody: it tells how late the event loop is."""


@contextmanager
def pulp() -> Iterator[Instance]:
    """Run a new Pulp until the block ends, be it by Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    instance = Instance(configure().home)
    try:
        connect(instance.start().address)
        yield instance
    finally:
        disconnect()
        instance.remove()


def ours(instance: Instance) -> AbstractContextManager[Server]:
    """The API and content in one process."""
    return serving(instance, *QUIET)


@contextmanager
def theirs_with_redis(instance: Instance) -> Iterator[Server]:
    """Upstream's `pulpcore-content`, which keeps what it has answered in Redis."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    redis = instance.spawn(command)
    try:
        cache = {"PULP_CACHE_ENABLED": "true", "PULP_REDIS_HOST": "127.0.0.1"}
        with theirs(instance, **cache, PULP_REDIS_PORT=str(port)) as server:
            yield server
    finally:
        redis.terminate()
        wait_until(lambda: redis.poll() is not None)


def theirs(instance: Instance, **environ: str) -> AbstractContextManager[Server]:
    """Upstream's `pulpcore-content`."""
    bind = f"127.0.0.1:{free_port()}"
    command = ["pulpcore-content", "--bind", bind, "--workers", "1"]
    return running(instance, command, f"http://{bind}", **environ)


def bare(instance: Instance) -> AbstractContextManager[Server]:
    """uvicorn with an application that answers at once: what there is to reach."""
    return _app(instance, "benchmarks.apps:bare")


def _app(instance: Instance, app: str, **environ: str) -> AbstractContextManager[Server]:
    return serving(instance, *QUIET, app=app, PYTHONPATH=str(REPOSITORY), **environ)


LIVEZ = "/pulp/content/livez"
OURS = Contestant("pulp-content-star", ours, LIVEZ)
THEIRS = Contestant("pulpcore-content", theirs)


def other(checkout: Path) -> Contestant:
    """Ours as it is in another checkout, to measure what a change has changed."""

    def start(instance: Instance) -> AbstractContextManager[Server]:
        return serving(instance, *QUIET, PYTHONPATH=str(checkout))

    return Contestant(f"ours in {checkout.name}", start, LIVEZ)


def installed(program: str) -> bool:
    """Whether this machine has a program that is not ours to bring along."""
    return shutil.which(program) is not None
