"""Restart under load: no request is refused, no download is cut."""

import os
import signal
import socket
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.instance import command_of, wait_until
from tests.support.load import SlowDownload, load
from tests.support.server import Server, running, serving

pytestmark = pytest.mark.slow

OURS = ("--http", "pulpcore.content_star.server:HttpProtocol")
DRAIN = (*OURS, "--timeout-graceful-shutdown", "300", "--no-access-log")
SMALL = b"small" * 100
LARGE = os.urandom(1 << 20) * 64  # larger than socket buffers


@pytest.fixture(scope="module")
def base(instance) -> str:
    """The base path of a small and a large file."""
    client = instance.pulp()
    repository = client.repository({"small.bin": SMALL, "large.bin": LARGE})
    yield client.distribute(publication=client.publish(repository))
    client.cleanup()


def workers(server: Server) -> set[int]:
    """Return the pids of uvicorn's workers."""
    pid = server.process.pid
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in children if b"spawn_main" in command_of(child)}


def test_hangup_signal_replaces_workers_without_failed_requests(instance, base):
    options = ("--workers", "2", "--timeout-worker-healthcheck", "120", *DRAIN)
    with serving(instance, *options) as server:
        url = f"{server.content_url}{base}/"
        old = workers(server)
        download = SlowDownload(f"{url}large.bin")
        with load(f"{url}small.bin", SMALL) as clients:
            os.kill(server.process.pid, signal.SIGHUP)
            wait_until(lambda: workers(server) - old, 600, server.said)
            clients.wait_for(100)
            assert download.finish() == LARGE
            wait_until(lambda: len(workers(server) - old) == 2, 600, server.said)
            wait_until(lambda: not workers(server) & old, 600, server.said)
            clients.wait_for(100)
        assert clients.failed == []


def test_restart_on_an_inherited_socket_without_failed_requests(instance, base):
    """As with a socket unit of systemd, which keeps the socket while the service restarts."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=2048)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [
            "uvicorn",
            "pulpcore.routing:application",
            "--fd",
            str(listener.fileno()),
            *DRAIN,
        ]
        fds = (listener.fileno(),)
        with running(instance, command, url, pass_fds=fds) as first:
            download = SlowDownload(f"{first.content_url}{base}/large.bin")
            with load(f"{first.content_url}{base}/small.bin", SMALL) as clients:
                first.process.terminate()
                wait_until(lambda: "Waiting for connections to close" in first.said(), 600)
                assert download.finish() == LARGE
                assert first.process.wait(600) in (0, -signal.SIGTERM), first.said()
                with running(instance, command, url, pass_fds=fds):
                    clients.wait_for(100)
                    clients.stop()  # while a server is running
            assert clients.failed == []


def test_client_address_is_known_on_an_inherited_socket(instance, base):
    """uvicorn takes the descriptor for a Unix socket, which has no addresses."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = ["uvicorn", "pulpcore.routing:application", "--fd", str(listener.fileno())]
        with running(instance, command, url, pass_fds=(listener.fileno(),)) as server:
            SlowDownload(f"{server.content_url}{base}/small.bin")
            wait_until(lambda: "small.bin" in server.said())
            assert "127.0.0.1:" in server.said().split("small.bin")[0].splitlines()[-1]


def test_reload_of_up_replaces_the_process_without_failed_requests(instance, base):
    """The session's Pulp continues in another process."""
    [old] = instance.servers()
    download = SlowDownload(f"{instance.content_url}{base}/large.bin")
    with load(f"{instance.content_url}{base}/small.bin", SMALL) as clients:
        assert "Reloaded" in instance.star("reload").stdout
        assert instance.servers() - {old}, "another process"
        clients.wait_for(100)
        assert download.finish() == LARGE
        wait_until(lambda: old not in instance.servers(), 600)
        clients.wait_for(100)
    assert clients.failed == []


def test_reload_keeps_the_process_if_the_next_one_does_not_start(instance):
    before = instance.servers()
    good = instance.state.settings.read_text()
    instance.state.settings.write_text(f"{good}raise RuntimeError('a broken setting')\n")
    try:
        completed = instance.star("reload", check=False)
    finally:
        instance.state.settings.write_text(good)
    assert completed.returncode == 1
    assert "a broken setting" in completed.stderr
    assert instance.servers() == before
    assert httpx.get(f"{instance.content_url}livez").status_code == 200
