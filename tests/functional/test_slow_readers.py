"""Memory of clients that read slowly."""

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator
from hashlib import sha256
from http.client import parse_headers
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.instance import wait_until
from tests.support.server import Server, free_port, running, serving

pytestmark = pytest.mark.slow

CLIENTS = 400
KIB = 1024


def resident(server: Server) -> int:
    """Return the resident memory of a server's process in bytes."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def start_response(
    server: Server, path: str, context: ssl.SSLContext | None = None, head: str = ""
) -> socket.socket:
    """Send a GET over a new connection with a small receive buffer, and read nine bytes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(300)
    host, port = server.url.split("//")[1].split(":")
    client.connect((host, int(port)))
    if context is not None:
        client = context.wrap_socket(client, server_hostname="localhost")
    client.sendall(f"GET /pulp/content/{path} HTTP/1.1\r\nHost: {host}\r\n{head}\r\n".encode())
    assert client.recv(9) == b"HTTP/1.1 "
    return client


def digest_of_body(client: socket.socket) -> bytes:
    """Read the rest of a response; return the sha256 of its body."""
    with client.makefile("rb") as stream:
        assert stream.readline().startswith(b"200")
        length = int(parse_headers(stream)["Content-Length"])
        return sha256(stream.read(length)).digest()


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> tuple[list[str], ssl.SSLContext]:
    """Options of a server with a certificate of its own, and a context that trusts any."""
    folder = tmp_path_factory.mktemp("tls")
    options = []
    for name, text in zip(("cert", "key"), Authority().pair(), strict=True):
        path = folder / name
        path.write_text(text)
        options += [f"--ssl-{name}file", str(path)]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return options, context


@contextlib.contextmanager
def serving_tls(instance, options: list[str], **environ: str) -> Iterator[Server]:
    port = free_port()
    command = ["uvicorn", "pulpcore.routing:application", "--port", str(port), "--no-access-log"]
    with running(instance, [*command, *options], f"https://localhost:{port}", **environ) as server:
        yield server


OURS = ("--http", "pulpcore.content_star.server:HttpProtocol")


def memory_of_each(server: Server, path: str, context: ssl.SSLContext | None = None) -> float:
    """Return the bytes that each of many clients costs that read a file slowly."""
    with contextlib.ExitStack() as warming:  # threads, buffers and caches
        for _ in range(20):
            warming.enter_context(start_response(server, path, context))
    before = resident(server)
    with contextlib.ExitStack() as clients:
        for _ in range(CLIENTS):
            clients.enter_context(start_response(server, path, context))
        return (resident(server) - before) / CLIENTS


@pytest.mark.parametrize("arguments", [(), OURS], ids=["httptools", "ours"])
def test_slow_readers_of_a_large_file_take_little_memory(instance, orm, arguments):
    base = orm.distribution(publication=orm.publication({"large": bytes(64 << 20)}))
    environ = {"PULP_CONTENT_STAR_CONNECTIONS": str(2 * CLIENTS)}
    with serving(instance, "--no-access-log", *arguments, **environ) as server:
        each = memory_of_each(server, f"{base}/large")
    assert each < 100 * KIB, f"{each / KIB:.0f} KiB"


@pytest.mark.parametrize("arguments", [(), OURS], ids=["httptools", "ours"])
def test_slow_readers_over_tls_take_little_memory_and_get_the_file(instance, orm, tls, arguments):
    data = random.randbytes(16 << 20)  # more than the socket takes at once
    base = orm.distribution(publication=orm.publication({"large": data}))
    options, context = tls
    environ = {"PULP_CONTENT_STAR_CONNECTIONS": str(2 * CLIENTS)}
    with serving_tls(instance, [*options, *arguments], **environ) as server:
        each = memory_of_each(server, f"{base}/large", context)
        with contextlib.ExitStack() as clients:
            slow = [
                clients.enter_context(start_response(server, f"{base}/large", context))
                for _ in range(3)
            ]
            for client in slow:
                assert digest_of_body(client) == sha256(data).digest()
    assert each < 100 * KIB, f"{each / KIB:.0f} KiB"


def test_memory_of_slow_readers_is_given_back_when_they_leave(instance, orm, tls):
    """Each takes half a megabyte with TLS and ranges that are too small to be sent as files."""
    base = orm.distribution(publication=orm.publication({"large": bytes(64 << 20)}))
    options, context = tls
    ranges = ",".join(f"{start}-{start + 100_000}" for start in range(0, 64 << 20, 1 << 20))
    with serving_tls(instance, options) as server:
        before = resident(server)
        with contextlib.ExitStack() as clients:
            for _ in range(CLIENTS // 4):
                head = f"Range: bytes={ranges}\r\n"
                clients.enter_context(start_response(server, f"{base}/large", context, head))
            taken = resident(server) - before
        assert taken > CLIENTS // 4 * 256 * KIB
        wait_until(
            lambda: resident(server) - before < taken / 4,
            120,
            lambda: f"{taken >> 20} MiB, then {(resident(server) - before) >> 20}",
        )
