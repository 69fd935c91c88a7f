"""The servers that are compared, each with one worker process and a port of its own on loopback."""

import logging
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path

from benchmarks.data import tree_of
from tests.support.instance import Instance, wait_until
from tests.support.nginx import complete_configuration
from tests.support.orm import configure, connect, disconnect
from tests.support.server import Server, free_port, running, serving, serving_theirs

QUIET = ("--no-access-log", "--log-level", "warning")
OURS_HTTP = ("--http", "pulpcore.content_star.server:HttpProtocol")
CHECKOUT = Path(__file__).parent.parent


class Can(Flag):
    """Kinds of requests that a server responds to."""

    SMALL = auto()
    """Something that is as large as a small file."""

    FILES = auto()
    LISTINGS = auto()
    GUARDED = auto()


ALL = Can.SMALL | Can.FILES | Can.LISTINGS | Can.GUARDED


@dataclass(frozen=True)
class Contestant:
    """A server that can be started on an instance."""

    name: str
    start: Callable[[Instance], AbstractContextManager[Server]]
    can: Can = ALL
    program: str | None = None
    """Program that has to be installed for it, if it is not a dependency."""

    loop_path: str = "/"
    """Path of a response without the database: its latency is that of the event loop."""


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
    """Run the API and content in one process."""
    return serving(instance, *QUIET, *OURS_HTTP)


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
    return serving_theirs(instance, **environ)


def bare(instance: Instance) -> AbstractContextManager[Server]:
    """uvicorn with an application that answers at once: what there is to reach."""
    return _app(instance, "benchmarks.apps:bare")


def static(instance: Instance) -> AbstractContextManager[Server]:
    """Starlette's own way to serve files, without any Pulp."""
    tree = str(tree_of(instance))
    return _app(instance, "benchmarks.apps:static", "--factory", BENCHMARK_TREE=tree)


def _app(
    instance: Instance, app: str, *arguments: str, **environ: str
) -> AbstractContextManager[Server]:
    return serving(instance, *QUIET, *arguments, app=app, PYTHONPATH=str(CHECKOUT), **environ)


@contextmanager
def nginx_with(instance: Instance, http: str, port: int) -> Iterator[Server]:
    """Run nginx with one worker, which reads all files, and directives of the `http` block."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(complete_configuration(Path(folder), http, user="root"))
        command = ["nginx", "-p", folder, "-c", str(config), "-e", f"{folder}/error.log"]
        with running(instance, command, f"http://127.0.0.1:{port}") as server:
            yield server


def nginx(instance: Instance) -> AbstractContextManager[Server]:
    """nginx with one worker, on plain files."""
    port = free_port()
    http = f"""
        default_type application/octet-stream;
        sendfile on;
        tcp_nopush on;
        keepalive_requests 1000000000;
        server {{
            listen 127.0.0.1:{port};
            root {tree_of(instance)};
            autoindex on;
        }}
    """
    return nginx_with(instance, http, port)


LIVEZ = "/pulp/content/livez"
OURS = Contestant("pulp-content-star", ours, loop_path=LIVEZ)
THEIRS = Contestant("pulpcore-content", theirs)
REDIS = Contestant("pulpcore-content, Redis", theirs_with_redis, program="redis-server")
STATIC = Contestant("Starlette StaticFiles", static, Can.SMALL | Can.FILES)
BARE = Contestant("bare uvicorn", bare, Can.SMALL)
NGINX = Contestant("nginx", nginx, Can.SMALL | Can.FILES | Can.LISTINGS, program="nginx")
CONTESTANTS = (OURS, THEIRS, REDIS, STATIC, BARE, NGINX)


def with_workers(count: int) -> tuple[Contestant, Contestant]:
    """Return ours and upstream's with several worker processes."""

    def start_ours(instance: Instance) -> AbstractContextManager[Server]:
        return serving(instance, *QUIET, *OURS_HTTP, "--workers", str(count))

    def start_theirs(instance: Instance) -> AbstractContextManager[Server]:
        return serving_theirs(instance, workers=count)

    return (
        Contestant(f"{OURS.name}, {count} workers", start_ours, loop_path=LIVEZ),
        Contestant(f"{THEIRS.name}, {count} workers", start_theirs),
    )


def other(checkout: Path) -> Contestant:
    """Ours as it is in another checkout, to measure what a change has changed."""

    def start(instance: Instance) -> AbstractContextManager[Server]:
        return serving(instance, *QUIET, *OURS_HTTP, PYTHONPATH=str(checkout))

    return Contestant(f"ours in {checkout.name}", start, loop_path=LIVEZ)


def installed(program: str | None) -> bool:
    """Return whether this machine has a program that is not ours to bring along."""
    return program is None or shutil.which(program) is not None
