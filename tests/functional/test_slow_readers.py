"""Memory of clients that read slowly."""

import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.instance import wait_until
from tests.support.server import Server, free_port, running, serving

CLIENTS = 400
KIB = 1024


def resident(server: Server) -> int:
    """Return the resident memory of a server's process in bytes."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def request(server: Server, path: str, context: ssl.SSLContext | None = None) -> socket.socket:
    """Send a GET over a new connection with a small receive buffer, and read some bytes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(300)
    host, port = server.url.split("//")[1].split(":")
    client.connect((host, int(port)))
    if context is not None:
        client = context.wrap_socket(client, server_hostname="localhost")
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


def test_memory_of_slow_readers_is_given_back_when_they_leave(instance, orm, tmp_path):
    """Through TLS, where each takes more than a megabyte, which malloc would keep."""
    base = orm.distribution(publication=orm.publication({"large": bytes(64 << 20)}))
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    for path, text in zip((certificate, key), Authority().pair(), strict=True):
        path.write_text(text)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = free_port()
    command = ["uvicorn", "pulpcore.routing:application", "--port", str(port), "--no-access-log"]
    command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with running(instance, command, f"https://localhost:{port}") as server:
        before = resident(server)
        with contextlib.ExitStack() as clients:
            for _ in range(CLIENTS // 4):
                clients.enter_context(request(server, f"{base}/large", context))
            taken = resident(server) - before
        wait_until(
            lambda: resident(server) - before < taken / 4,
            120,
            lambda: f"{taken >> 20} MiB, then {(resident(server) - before) >> 20}",
        )
