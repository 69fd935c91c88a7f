"""Large files under uvicorn: sent from the page cache by the kernel, without copying them."""

import errno
import hashlib
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from http.client import HTTPResponse
from itertools import product
from pathlib import Path

import httpx
import pytest

from pulpcore.content_star.server.file_range import MAX_PROBE_BYTES
from tests.support.instance import Instance, stop, wait_until
from tests.support.raw_client import Raw
from tests.support.server import Server, free_port, memory, running

pytestmark = pytest.mark.slow

OURS = "pulpcore.content_star.server:HttpProtocol"
APP = "tests.support.zero_copy_app:app"
CHECKOUT = str(Path(__file__).parents[2])
Running = AbstractContextManager[Server]
Start = Callable[..., Running]
SIZE = 24_000_001
PIECE = os.urandom(1 << 20)
LARGE = (PIECE * (SIZE // len(PIECE) + 1))[:SIZE]
SMALL = b"small"

# Pages that the kernel may drop again after a thread has read them: up to 4 of 512 were gone 10 ms
# later. Without reading, each of these files would have hundreds.
DROPPED = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files that servers send."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "large").write_bytes(LARGE)
    (folder / "small").write_bytes(SMALL)
    return folder


@pytest.fixture(scope="module")
def environ(folder: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": CHECKOUT,
        "DJANGO_SETTINGS_MODULE": "pulpcore.app.settings",
        "ZERO_COPY_FOLDER": str(folder),
    }


@pytest.fixture(scope="module")
def start(instance: Instance, environ: dict[str, str]) -> Start:
    """Run uvicorn with `tests.support.zero_copy_app`."""

    def start(*arguments: str, app: str = APP, scheme: str = "http") -> Running:
        port = free_port()
        command = ["uvicorn", app, "--port", str(port), *arguments]
        return running(instance, command, f"{scheme}://127.0.0.1:{port}", **environ)

    return start


@pytest.fixture(
    scope="module",
    params=[(http, loop) for http in ("httptools", "h11", OURS) for loop in ("uvloop", "asyncio")],
    ids=lambda param: "-".join(param).rpartition(":")[2],
)
def server(start: Start, request: pytest.FixtureRequest) -> Iterator[Server]:
    """uvicorn with each of its protocols and ours, on each event loop."""
    http, loop = request.param
    with start("--http", http, "--loop", loop) as server:
        yield server


@pytest.fixture(scope="module")
def plain(start: Start) -> Iterator[Server]:
    """uvicorn without an option."""
    with start() as server:
        yield server


def seen(server: Server) -> dict[str, int]:
    return {"bytes": 0, "cold pages": 0, "read ahead": 0, **httpx.get(f"{server.url}/seen").json()}


def sent_without_copying(server: Server, request: Callable[[], object]) -> int:
    """Return the bytes that were sent without copying during `request`."""
    before = seen(server)["bytes"]
    request()
    return seen(server)["bytes"] - before


def digest_of(response: HTTPResponse) -> str:
    digest = hashlib.sha256()
    while data := response.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


DIGEST = hashlib.sha256(LARGE).hexdigest()
SHARE = 6_000_000
SHARE_DIGEST = hashlib.sha256(LARGE[:SHARE]).hexdigest()


# Bodies that are sent without copying


def test_whole_file_is_sent_without_copying(server):
    def request() -> None:
        assert httpx.get(f"{server.url}/file/large").content == LARGE

    assert sent_without_copying(server, request) == SIZE


def test_single_range_is_sent_without_copying(server):
    def request() -> None:
        response = httpx.get(f"{server.url}/file/large", headers={"Range": "bytes=5000-5000000"})
        assert response.status_code == 206
        assert response.content == LARGE[5000:5000001]

    assert sent_without_copying(server, request) == 4995001


def test_large_parts_of_multiple_ranges_are_sent_without_copying(server):
    def request() -> None:
        headers = {"Range": "bytes=0-9,5000-5000000,9000000-9000009"}
        response = httpx.get(f"{server.url}/file/large", headers=headers)
        assert response.status_code == 206
        assert len(response.content) == int(response.headers["Content-Length"])
        boundary = response.headers["Content-Type"].partition("boundary=")[2].encode()
        parts = response.content.split(b"--" + boundary)[1:-1]
        bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
        assert bodies == [LARGE[:10], LARGE[5000:5000001], LARGE[9000000:9000010]]

    assert sent_without_copying(server, request) == 4995001


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("HEAD", "/file/large", {}, 200),
        ("GET", "/file/large", {"If-None-Match": '"' + "0" * 64 + '"'}, 304),
        ("GET", "/file/large", {"Range": "bytes=0-65535"}, 206),
        ("GET", "/file/large", {"Range": "bytes=99999999-"}, 416),
        ("GET", "/file/small", {}, 200),
    ],
)
def test_responses_without_a_large_body_are_sent_as_before(server, method, path, headers, status):
    def request() -> None:
        with httpx.Client(base_url=server.url) as client:
            for _ in range(2):  # the connection remains in order
                response = client.request(method, path, headers=headers)
                assert response.status_code == status

    assert sent_without_copying(server, request) == 0


def test_large_body_of_head_is_dropped_by_the_server(server):
    with Raw(server.url) as client:
        client.head("HEAD", "/raw?path=/proc/self/status&length=10&offset=0&count=10")
        client.response("HEAD").read()
        client.head("GET", "/file/small")
        assert client.response().read() == SMALL


def test_body_without_length_is_chunked(server, folder):
    response = httpx.get(f"{server.url}/raw?path={folder}/large")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert response.content == LARGE
    response = httpx.get(f"{server.url}/raw?path={folder}/large&offset=10&count=20")
    assert response.content == LARGE[10:30]


def test_body_longer_than_its_length_is_refused(server, folder):
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/raw?path={folder}/large&length=10&offset=0&count=20")


# Connections


def test_connection_is_kept_after_a_large_file(server):
    with Raw(server.url) as client:
        for _ in range(3):
            client.head("GET", "/file/large")
            assert digest_of(client.response()) == DIGEST
            client.head("GET", "/file/small")
            assert client.response().read() == SMALL


def test_pipelined_requests_follow_a_large_file(server):
    with Raw(server.url) as client:
        for path in ("/file/small", "/file/large", "/file/small", "/file/large"):
            client.head("GET", path)
        for expected in (SMALL, LARGE, SMALL, LARGE):
            assert client.response().read() == expected


def test_connection_close_ends_after_the_large_file(server):
    with Raw(server.url) as client:
        client.head("GET", "/file/large", Connection="close")
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        assert body == LARGE


def test_http_1_0_gets_a_large_file(server):
    with Raw(server.url) as client:
        client.send(b"GET /file/large HTTP/1.0\r\n\r\n")
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
        assert f"content-length: {SIZE}".encode() in head.lower()
        assert body == LARGE


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "close"])
def test_client_that_leaves_in_the_middle_leaves_nothing_open(server, resets):
    before = seen(server)["open"]
    logged = server.said()
    for _ in range(5):
        with Raw(server.url) as client:
            client.head("GET", "/file/large")
            assert client.socket.recv(65536)
            if resets:
                linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_until(lambda: seen(server)["open"] <= before, explain=server.said)
    assert "Traceback" not in server.said().removeprefix(logged)
    assert "ERROR" not in server.said().removeprefix(logged)


def test_pipelining_client_that_leaves_in_the_middle_is_no_error(server):
    before = seen(server)["open"]
    logged = server.said()
    with Raw(server.url) as client:
        client.head("GET", "/file/large")
        client.head("GET", "/file/small")
        assert client.socket.recv(65536)
    wait_until(lambda: seen(server)["open"] <= before, explain=server.said)
    assert "ERROR" not in server.said().removeprefix(logged)


def test_client_that_stops_reading_does_not_stop_others(server):
    with Raw(server.url) as slow:
        slow.head("GET", "/file/large")
        assert slow.has_response(60)
        for _ in range(3):
            assert httpx.get(f"{server.url}/file/large").content == LARGE
        assert digest_of(slow.response()) == DIGEST


# Files


def test_file_truncated_while_it_is_sent_cuts_the_connection(server, folder):
    path = folder / "truncated"
    path.write_bytes(LARGE)
    with Raw(server.url) as client:
        client.head("GET", "/file/truncated")
        assert client.has_response(60)
        os.truncate(path, 100)
        response = client.response()
        assert response.status == 200
        assert len(client.read_to_end()) < SIZE
    wait_until(lambda: f"'{path}'" in server.said(), explain=server.said)
    assert "has become shorter" in server.said()
    assert httpx.get(f"{server.url}/file/large").content == LARGE


def test_file_that_sendfile_does_not_support_is_read(server):
    """`sendfile` fails with EINVAL for files of /proc that the kernel makes on reading."""
    path = "/raw?path=/proc/self/environ&offset=0&count=10"
    assert httpx.get(server.url + path).text.isprintable()
    assert len(httpx.get(f"{server.url}{path}&length=10").content) == 10


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EUCLEAN])
@pytest.mark.parametrize("is_cold", [False, True])
def test_file_is_read_where_a_filter_denies_system_calls(server, folder, code, is_cold):
    """Filters have any error: `SystemCallErrorNumber=` of systemd, `errnoRet` of containers."""
    (folder / f"denied-{code}").write_bytes(LARGE)
    if is_cold:
        httpx.get(f"{server.url}/drop/denied-{code}")
    before = seen(server)
    assert httpx.get(f"{server.url}/file/denied-{code}").content == LARGE
    assert seen(server)["bytes"] == before["bytes"]


def test_file_that_cannot_be_read_cuts_the_connection_and_is_logged(server):
    """The first page of a process's memory is never mapped: reading it fails with EIO."""
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/raw?path=/proc/self/mem&length=10&offset=0&count=10")
    wait_until(lambda: "Input/output error: '/proc/self/mem'" in server.said(), 60, server.said)
    assert httpx.get(f"{server.url}/file/small").content == SMALL


def test_cold_file_is_read_in_threads(server, folder):
    path = folder / "cold"
    path.write_bytes(LARGE)
    httpx.get(f"{server.url}/drop/cold")
    before = seen(server)
    assert httpx.get(f"{server.url}/file/cold").content == LARGE
    after = seen(server)
    assert after["read ahead"] > before["read ahead"]
    assert after["cold pages"] - before["cold pages"] <= DROPPED
    assert after["bytes"] - before["bytes"] == SIZE


def test_cold_part_of_a_cached_file_is_read_in_threads(server, folder):
    path = folder / "partly-cold"
    path.write_bytes(LARGE)
    before = seen(server)
    httpx.get(f"{server.url}/drop/partly-cold?offset={SIZE // 2}&length={4 * MAX_PROBE_BYTES}")
    assert httpx.get(f"{server.url}/file/partly-cold").content == LARGE
    after = seen(server)
    assert after["read ahead"] > before["read ahead"]
    assert after["cold pages"] - before["cold pages"] <= DROPPED


def test_file_that_goes_cold_while_a_client_waits_is_read_in_threads(server, folder):
    path = folder / "cooling"
    path.write_bytes(LARGE)
    before = seen(server)
    with Raw(server.url) as slow:
        slow.head("GET", "/file/cooling")
        assert slow.has_response(60)
        httpx.get(f"{server.url}/drop/cooling")
        assert digest_of(slow.response()) == DIGEST
    after = seen(server)
    assert after["read ahead"] > before["read ahead"]
    assert after["cold pages"] - before["cold pages"] <= DROPPED


# Servers


UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE


def end_tls(client: ssl.SSLSocket) -> None:
    """End TLS without waiting for the server's end."""
    client.setblocking(False)
    with suppress(ssl.SSLError):
        client.unwrap()


def end_tcp(client: ssl.SSLSocket) -> None:
    """Half-close the TCP connection."""
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("http", ["httptools", "h11", OURS])
def test_tls_encrypts_files_and_ranges(start, folder, tls_options, http, loop):
    """Read by the server, as much at a time as the socket has room for; `sendfile` is not used."""
    cut = folder / "cut"
    cut.write_bytes(LARGE)
    with (
        start(*tls_options, "--http", http, "--loop", loop, scheme="https") as server,
        httpx.Client(base_url=server.url, verify=False) as client,
    ):
        assert client.get("/file/large").content == LARGE
        part = client.get("/file/large", headers={"Range": "bytes=5000-5000000"})
        assert part.content == LARGE[5000:5000001]
        assert client.get(f"/raw?path={folder}/large").content == LARGE  # chunked
        assert client.get("/file/small").content == SMALL
        before = client.get("/seen").json()
        assert "bytes" not in before
        with client.stream("GET", "/file/cut") as response:
            chunks = response.iter_raw()
            next(chunks)
            os.truncate(cut, 1)
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)
        with client.stream("GET", "/file/large") as response:  # the client leaves
            next(response.iter_raw())
        wait_until(lambda: client.get("/seen").json()["open"] <= before["open"])


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("end", [end_tls, end_tcp], ids=["tls", "tcp"])
def test_tls_client_that_ends_in_the_middle_is_no_error(start, tls_options, loop, end):
    """Nor one that ends before the response; its connection stays open, and it reads no more."""
    several = ",".join(f"{place}-{place + 90_000}" for place in range(0, 8_000_000, 100_000))
    heads = ["", f"Range: bytes={several}\r\n"]
    with (
        start(*tls_options, "--http", OURS, "--loop", loop, scheme="https") as server,
        httpx.Client(base_url=server.url, verify=False) as client,
        ExitStack() as stack,
    ):
        before = client.get("/seen").json()["open"]
        for head, reads in product(heads, [False, True]):
            for _ in range(5):
                url = httpx.URL(server.url)
                connection = socket.create_connection((url.host, url.port), 300)
                ended = stack.enter_context(UNVERIFIED.wrap_socket(connection))
                ended.sendall(f"GET /file/large HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
                if reads:
                    assert ended.recv(1)
                end(ended)
        stack.close()
        wait_until(lambda: client.get("/seen").json()["open"] <= before)
        for word in ("ERROR", "Traceback", "is closed"):
            assert word not in server.said()


def test_tls_on_a_kernel_that_does_not_know_the_room_of_a_socket(start, tls_options):
    with (
        start(*tls_options, app=f"{APP[:-3]}on_old_kernel", scheme="https") as server,
        httpx.Client(base_url=server.url, verify=False) as client,
    ):
        assert client.get("/file/large").content == LARGE


def test_middleware_around_the_application_gets_bodies(start):
    with start(app=f"{APP[:-3]}compressed") as server:
        response = httpx.get(f"{server.url}/file/large")
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.content == LARGE
        assert seen(server)["bytes"] == 0


def test_forwarded_https_over_plain_tcp_is_sent_without_copying(plain):
    def request() -> None:
        headers = {"X-Forwarded-Proto": "https"}
        assert httpx.get(f"{plain.url}/file/large", headers=headers).content == LARGE

    assert sent_without_copying(plain, request) == SIZE


@pytest.mark.parametrize("http", ["httptools", OURS])
def test_unix_socket_is_sent_without_copying(instance, environ, tmp_path, http):
    path = tmp_path / "socket"
    command = ["uvicorn", APP, "--http", http, "--uds", str(path)]
    process = instance.spawn(command, output=tmp_path / "log", **environ)
    try:
        wait_until(path.exists)
        transport = httpx.HTTPTransport(uds=str(path), retries=10)
        with httpx.Client(transport=transport, base_url="http://pulp") as client:
            assert client.get("/file/large").content == LARGE
            assert client.get("/seen").json()["bytes"] == SIZE
    finally:
        stop(process)


def test_log_of_all_messages_gets_bodies(start):
    with start("--log-level", "trace") as server:
        assert httpx.get(f"{server.url}/file/large").content == LARGE
        assert seen(server)["bytes"] == 0


def test_shutdown_waits_for_a_large_file(start):
    for http in ("httptools", OURS):
        with start("--http", http) as server, Raw(server.url) as client:
            client.head("GET", "/file/large")
            assert client.has_response(60)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down" in server.said(), explain=server.said)
            assert digest_of(client.response()) == DIGEST
            assert server.process.wait(60) in (0, -signal.SIGTERM)


def test_keep_alive_timeout_does_not_end_a_large_file(start):
    with start("--timeout-keep-alive", "1") as server, Raw(server.url) as slow:
        slow.head("GET", "/file/large")
        assert slow.has_response(60)
        with Raw(server.url) as idle:
            idle.head("GET", "/file/small")
            assert idle.response().read() == SMALL
            assert idle.read_to_end() == b"", "the server closes it after a second"
        assert digest_of(slow.response()) == DIGEST


def test_concurrency_limit_does_not_end_a_large_file(start):
    with start("--limit-concurrency", "3") as server, Raw(server.url) as slow:
        slow.head("GET", "/file/large")
        assert slow.has_response(60)
        with Raw(server.url) as second, Raw(server.url) as third:
            assert second.socket and third.socket
            third.head("GET", "/file/small")
            assert third.response().status == 503
        assert digest_of(slow.response()) == DIGEST


@pytest.mark.parametrize("http", ["httptools", OURS])
def test_500_slow_readers_take_no_memory(start, http):
    """Each reads a little, and waits for all others."""
    with start("--http", http) as server:
        httpx.get(f"{server.url}/file/large")
        before = memory(server)
        clients = [Raw(server.url) for _ in range(500)]
        try:
            for client in clients:
                client.head("GET", "/file/large", Range=f"bytes=0-{SHARE - 1}")
            responses = [client.response() for client in clients]
            digests = [hashlib.sha256() for _ in clients]
            for response, digest in zip(responses, digests, strict=True):
                digest.update(response.read(1000))
            assert memory(server) - before < 64 << 20
            assert httpx.get(f"{server.url}/file/small").content == SMALL

            def finish(number: int) -> str:
                while data := responses[number].read(1 << 20):
                    digests[number].update(data)
                return digests[number].hexdigest()

            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(finish, range(500))) == {SHARE_DIGEST}
            assert memory(server) - before < 64 << 20
        finally:
            for client in clients:
                client.__exit__()
