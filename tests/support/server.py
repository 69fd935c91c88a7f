"""Servers for tests that stop, break or configure one: uvicorn, or upstream's content app."""

import contextlib
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.support import schema_check
from tests.support.instance import Instance, stop, wait_until


@dataclass
class Server:
    """A running server, which its context manager stops."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def content_url(self) -> str:
        return f"{self.url}/pulp/content/"

    def said(self) -> str:
        """Return the server's output so far."""
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def serving(
    instance: Instance, *arguments: str, app: str = "pulpcore.routing:application", **environ: str
) -> Iterator[Server]:
    """Run `uvicorn` with `app` on the state of `instance` and a random port."""
    port = free_port()
    command = ["uvicorn", app, "--port", str(port), *arguments]
    scheme = "https" if "--ssl-certfile" in arguments else "http"
    with running(instance, command, f"{scheme}://127.0.0.1:{port}", **environ) as server:
        yield server


@contextlib.contextmanager
def serving_theirs(
    instance: Instance, *command: str, workers: int = 1, **environ: str
) -> Iterator[Server]:
    """Run upstream's `pulpcore-content`, or `command`, which runs it, on a random port."""
    bind = f"127.0.0.1:{free_port()}"
    line = [*(command or ["pulpcore-content"]), "--bind", bind, "--workers", str(workers)]
    with running(instance, line, f"http://{bind}", **environ) as server:
        yield server


@contextlib.contextmanager
def running(
    instance: Instance,
    command: list[str],
    url: str,
    pass_fds: Iterable[int] = (),
    **environ: str,
) -> Iterator[Server]:
    """Run a command that serves HTTP at `url`, and wait until it responds."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        process = instance.spawn(command, output=log, pass_fds=pass_fds, **environ)
        server = Server(url, process, log)
        try:
            wait_until(lambda: _answers(server), 300, server.said)
            yield server
        finally:
            stop(process)


def memory(server: Server) -> int:
    """Return the resident memory of the server's process in bytes."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, server.said()
    address = urlsplit(server.url)
    try:
        # A refused request takes 4 ms of CPU, a connection 0.1: a start is polled 100 times.
        socket.create_connection((address.hostname, address.port or 80), 5).close()
    except OSError:
        return False
    with contextlib.suppress(httpx.TransportError):
        # `verify=False`, since reading the system's certificates takes 20 ms.
        with schema_check.paused():  # some serve another application
            httpx.options(server.content_url, trust_env=False, verify=False)
        return True
    return False
