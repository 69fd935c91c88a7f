"""Memory of clients that read slowly."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.support.server import Server, serving

CLIENTS = 400
KIB = 1024


def resident(server: Server) -> int:
    """Return the resident memory of a server's process in bytes."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def request(server: Server, path: str) -> socket.socket:
    """Send a GET over a new connection with a small receive buffer, and read some bytes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(300)
    host, port = server.url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    client.sendall(f"GET /pulp/content/{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert client.recv(KIB).startswith(b"HTTP/1.1 200")
    return client


@pytest.mark.parametrize("arguments", [(), ("--http", "pulpcore.content_star.server:HttpProtocol")])
def test_slow_readers_of_a_large_file_take_little_memory(instance, orm, arguments):
    base = orm.distribution(publication=orm.publication({"large": bytes(64 << 20)}))
    environ = {"PULP_CONTENT_STAR_CONNECTIONS": str(2 * CLIENTS)}
    with serving(instance, "--no-access-log", *arguments, **environ) as server:
        with contextlib.ExitStack() as warming:  # threads, buffers and caches
            for _ in range(20):
                warming.enter_context(request(server, f"{base}/large"))
        before = resident(server)
        with contextlib.ExitStack() as clients:
            for _ in range(CLIENTS):
                clients.enter_context(request(server, f"{base}/large"))
            each = (resident(server) - before) / CLIENTS
    assert each < 100 * KIB, f"{each / KIB:.0f} KiB"
