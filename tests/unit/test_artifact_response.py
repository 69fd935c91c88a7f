"""Artifact responses: ASGI messages, and responses as clients of a real server see them."""

import asyncio
import email
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulpcore.content_star.responses.artifact import ArtifactResponse
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from pulpcore.content_star.responses.source import CHUNK_SIZE, ArtifactMissing
from pulpcore.content_star.storage import disk
from pulpcore.content_star.storage.disk import FileTruncated, LocalSource

pytestmark = pytest.mark.anyio

CONTENT = b"".join(b"line %d\r\n--not a boundary\n" % number for number in range(40))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"{SHA256}"'
MODIFIED = datetime(2024, 2, 29, 12, 30, 15, 500_000, tzinfo=UTC)
MODIFIED_TEXT = "Thu, 29 Feb 2024 12:30:15 GMT"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "0123"
    path.write_bytes(CONTENT)
    return str(path)


@pytest.fixture
def big(tmp_path: Path) -> tuple[str, bytes]:
    """Three steps and a bit, no step like another."""
    content = os.urandom(3 * CHUNK_SIZE + 123)
    (tmp_path / "big").write_bytes(content)
    return str(tmp_path / "big"), content


def hole(path: Path, size: int) -> str:
    """Return a file of zeros that takes no room on the disk."""
    path.touch()
    os.truncate(path, size)
    return str(path)


def artifact(path: str, size: int = len(CONTENT), **options) -> ArtifactResponse:
    options = {"last_modified": MODIFIED, "filename": "foo.rpm", "sha256": SHA256, **options}
    return ArtifactResponse(LocalSource(path), size=size, **options)


@dataclass
class Answer:
    messages: list[dict] = field(default_factory=list)

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        raw = self.messages[0]["headers"]
        assert all(name == name.lower() for name, _ in raw)
        assert all(type(name) is bytes and type(value) is bytes for name, value in raw)
        names = [name for name, _ in raw if name != b"content-security-policy"]
        assert len(names) == len(set(names))
        return {name.decode(): value.decode() for name, value in raw}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        return bool(self.messages) and not self.messages[-1].get("more_body", False)


async def never() -> dict:
    await anyio.sleep_forever()
    raise AssertionError


def scope(method: str, headers: dict[str, str] | list[tuple[str, str]]) -> dict:
    lines = headers.items() if isinstance(headers, dict) else headers
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in lines]
    return {"type": "http", "method": method, "path": "/", "headers": raw}


async def call(
    app: ArtifactResponse,
    headers: dict[str, str] | list[tuple[str, str]] = {},  # noqa: B006
    method: str = "GET",
    receive: Callable[[], Awaitable[dict]] = never,
) -> Answer:
    answer = Answer()

    async def send(message: dict) -> None:
        answer.messages.append(message)

    await app(scope(method, headers), receive, send)
    assert answer.messages[0]["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in answer.messages[1:])
    assert answer.complete
    return answer


def test_responses_package_imports_neither_django_nor_pulp():
    script = (
        "import sys, pulpcore.content_star.responses.artifact\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "starlette" in loaded
    assert not loaded & {"django", "rest_framework", "aiohttp", "asgiref"}


async def test_get_returns_the_whole_file(path: str):
    answer = await call(artifact(path))
    assert answer.status == 200
    assert answer.body == CONTENT
    assert answer.headers == {
        "content-type": "application/octet-stream",
        "content-length": str(len(CONTENT)),
        "content-disposition": 'attachment; filename="foo.rpm"',
        "etag": ETAG,
        "last-modified": MODIFIED_TEXT,
        "accept-ranges": "bytes",
        "repr-digest": f"sha-256=:{b64encode(hashlib.sha256(CONTENT).digest()).decode()}:",
        "x-pulp-artifact-size": str(len(CONTENT)),
        **SECURITY_HEADERS,
    }


async def test_small_file_is_one_body_message(path: str):
    assert len((await call(artifact(path))).messages) == 2


async def test_unknown_date_sends_no_last_modified(path: str):
    answer = await call(artifact(path, last_modified=None))
    assert "last-modified" not in answer.headers


async def test_headers_of_a_plugin_are_sent(path: str):
    answer = await call(
        artifact(
            path,
            headers={
                "Content-Type": "application/x-rpm",
                "Content-Disposition": "inline",
                "Cache-Control": "max-age=60",
                "X-Plugin": "yes",
            },
        )
    )
    assert answer.headers["content-type"] == "application/x-rpm"
    assert answer.headers["content-disposition"] == "inline"
    assert answer.headers["cache-control"] == "max-age=60"
    assert answer.headers["x-plugin"] == "yes"


async def test_reserved_headers_of_a_plugin_are_ignored(path: str):
    plain = await call(artifact(path))
    bold = await call(
        artifact(
            path,
            headers={
                "ETag": "mine",
                "content-length": "1",
                "Content-Range": "bytes 0-0/1",
                "Last-Modified": "never",
                "Accept-Ranges": "none",
                "Transfer-Encoding": "chunked",
                "Connection": "close",
                "X-Content-Type-Options": "sniff",
                "X-PULP-ARTIFACT-SIZE": "1",
            },
        )
    )
    assert bold.headers == plain.headers


async def test_content_security_policy_of_a_plugin_is_added(path: str):
    answer = await call(artifact(path, headers={"Content-Security-Policy": "img-src 'none'"}))
    policies = {
        value.decode()
        for name, value in answer.messages[0]["headers"]
        if name == b"content-security-policy"
    }
    assert policies == {SECURITY_HEADERS["content-security-policy"], "img-src 'none'"}


async def test_disposition_inline_is_sent(path: str):
    answer = await call(artifact(path, disposition="inline"))
    assert answer.headers["content-disposition"] == 'inline; filename="foo.rpm"'


async def test_head_has_the_headers_of_get(path: str, monkeypatch: pytest.MonkeyPatch):
    get = await call(artifact(path))

    async def read(*arguments) -> bytes:
        raise AssertionError("HEAD reads nothing")

    monkeypatch.setattr(disk.LocalFile, "read", read)
    for asked in ({}, {"range": "bytes=0-1"}, {"range": "bytes=9999-"}):
        head = await call(artifact(path), asked, "HEAD")
        assert (head.status, head.headers, head.body) == (200, get.headers, b"")


async def test_empty_file_is_sent(tmp_path: Path):
    (tmp_path / "empty").touch()
    empty = artifact(str(tmp_path / "empty"), 0)
    for asked in ({}, {"range": "bytes=-5"}):
        answer = await call(empty, asked)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == "0"
    assert (await call(empty, {"range": "bytes=0-"})).status == 416


async def test_big_file_is_sent_in_chunks(big: tuple[str, bytes]):
    path, content = big
    before = asyncio.all_tasks()
    answer = await call(artifact(path, len(content)))
    assert answer.body == content
    assert asyncio.all_tasks() == before
    assert max(len(message["body"]) for message in answer.messages[1:]) <= CHUNK_SIZE


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"if-none-match": ETAG}, 304),
        ({"if-none-match": f'W/{ETAG}, "other"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"other"'}, 200),
        ({"if-modified-since": MODIFIED_TEXT}, 304),
        ({"if-modified-since": "Thu, 29 Feb 2024 12:30:14 GMT"}, 200),
        ({"if-match": '"other"'}, 412),
        ({"if-match": ETAG}, 200),
        ({"if-unmodified-since": "Thu, 29 Feb 2024 12:30:14 GMT"}, 412),
        # 13.2.2: preconditions come before Range.
        ({"if-none-match": ETAG, "range": "bytes=0-1"}, 304),
        ({"if-none-match": ETAG, "range": "bytes=9999-"}, 304),
        ({"if-match": '"other"', "range": "bytes=0-1"}, 412),
        ({"if-match": ETAG, "range": "bytes=0-1"}, 206),
        ({"range": "bytes=0-1", "if-range": ETAG}, 206),
        ({"range": "bytes=0-1", "if-range": MODIFIED_TEXT}, 206),
        ({"range": "bytes=0-1", "if-range": '"other"'}, 200),
        ({"range": "bytes=0-1", "if-range": f"W/{ETAG}"}, 200),
        ({"range": "bytes=9999-", "if-range": '"other"'}, 200),
        ({"range": "bytes=9999-", "if-range": ETAG}, 416),
        ({"if-range": '"other"'}, 200),
        ({"range": "lines=0-1"}, 200),
        ({"range": "bytes=0-,0-"}, 200),
        ([("range", "bytes=0-1"), ("range", "bytes=4-5")], 200),
        ({"range": "bytes=5-4"}, 416),
    ],
)
async def test_status_by_conditions_and_range(
    path: str, asked: dict[str, str] | list[tuple[str, str]], status: int
):
    answer = await call(artifact(path), asked)
    assert answer.status == status
    if status == 200:
        assert answer.body == CONTENT
    if status == 206:
        assert answer.body == CONTENT[:2]


async def test_headers_of_304(path: str):
    headers = {"Cache-Control": "max-age=1", "Vary": "Accept", "Expires": "0", "X-Plugin": "yes"}
    answer = await call(artifact(path, headers=headers), {"if-none-match": ETAG})
    assert answer.headers == {
        "etag": ETAG,
        "cache-control": "max-age=1",
        "vary": "Accept",
        "expires": "0",
    }
    assert answer.body == b""


async def test_headers_of_416(path: str):
    answer = await call(artifact(path), {"range": "bytes=9999-"})
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert answer.headers["content-length"] == "0"
    assert answer.body == b""


async def test_headers_of_412(path: str):
    answer = await call(artifact(path), {"if-match": '"other"'})
    assert answer.headers == {"content-length": "0"}


async def test_one_range_returns_206(path: str):
    answer = await call(artifact(path), {"range": "bytes=10-19"})
    assert answer.status == 206
    assert answer.body == CONTENT[10:20]
    assert answer.headers["content-range"] == f"bytes 10-19/{len(CONTENT)}"
    assert answer.headers["content-length"] == "10"
    assert answer.headers["x-pulp-artifact-size"] == str(len(CONTENT))
    assert answer.headers["etag"] == ETAG
    assert answer.headers["last-modified"] == MODIFIED_TEXT


def parts(answer: Answer) -> list[tuple[str, str, bytes]]:
    """Content-Type, Content-Range and bytes of each part, as the email package reads them."""
    assert answer.status == 206
    assert "content-range" not in answer.headers
    assert int(answer.headers["content-length"]) == len(answer.body)
    kind = answer.headers["content-type"].encode()
    message = email.message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + answer.body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    return [
        (part["content-type"], part["content-range"], part.get_payload(decode=True))
        for part in message.get_payload()
    ]


async def test_several_ranges_return_multipart(path: str):
    app = artifact(path, headers={"Content-Type": "text/plain"})
    answer = await call(app, {"range": "bytes=30-49, 0-9, -5"})
    size = len(CONTENT)
    assert parts(answer) == [
        ("text/plain", f"bytes 30-49/{size}", CONTENT[30:50]),
        ("text/plain", f"bytes 0-9/{size}", CONTENT[:10]),
        ("text/plain", f"bytes {size - 5}-{size - 1}/{size}", CONTENT[-5:]),
    ]
    assert len(answer.messages) == 2


async def test_several_ranges_of_a_big_file_return_multipart(big: tuple[str, bytes]):
    path, content = big
    app = artifact(path, len(content))
    answer = await call(
        app, {"range": f"bytes=0-{CHUNK_SIZE + 9},{2 * CHUNK_SIZE}-{3 * CHUNK_SIZE + 5},-1"}
    )
    assert [data for _, _, data in parts(answer)] == [
        content[: CHUNK_SIZE + 10],
        content[2 * CHUNK_SIZE : 3 * CHUNK_SIZE + 6],
        content[-1:],
    ]


async def test_multipart_boundary_is_random(path: str):
    asked = {"range": "bytes=0-1,5-6"}
    kinds = {(await call(artifact(path), asked)).headers["content-type"] for _ in range(20)}
    assert len(kinds) == 20
    assert all(re.fullmatch(r"multipart/byteranges; boundary=\w{20,70}", kind) for kind in kinds)


cuts = st.lists(st.integers(1, len(CONTENT) - 1), max_size=6, unique=True).map(sorted)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(cuts=cuts)
def test_ranges_add_up_to_the_whole_file(path: str, cuts: list[int]):
    async def fetch() -> bytes:
        body = b""
        for start, stop in zip([0, *cuts], [*cuts, len(CONTENT)], strict=True):
            answer = await call(artifact(path), {"range": f"bytes={start}-{stop - 1}"})
            assert answer.status == 206
            body += answer.body
        return body

    assert anyio.run(fetch) == CONTENT


raw = st.lists(
    st.tuples(
        st.sampled_from(["range", "if-range", "if-match", "if-none-match", "if-modified-since"]),
        st.binary(max_size=30).map(lambda value: value.decode("latin-1"))
        | st.sampled_from(["bytes=0-9,20-30", "bytes=0-", ETAG, MODIFIED_TEXT, "*"]),
    ),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(lines=raw)
def test_any_headers_get_a_valid_response(path: str, lines: list[tuple[str, str]]):
    answer = anyio.run(call, artifact(path), lines)
    assert answer.status in (200, 206, 304, 412, 416)
    if answer.status != 304:
        assert int(answer.headers["content-length"]) == len(answer.body)


async def refused(app: ArtifactResponse, method: str = "GET") -> ArtifactMissing:
    async def send(message: dict) -> None:
        raise AssertionError("nothing may be sent")

    with pytest.raises(ArtifactMissing) as failure:
        await app(scope(method, {}), never, send)
    return failure.value


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_missing_file_raises_artifact_missing(path: str, tmp_path: Path, method: str):
    missing = str(tmp_path / "missing")
    assert (await refused(artifact(missing), method)).path == missing
    await refused(artifact(str(tmp_path)), method)
    await refused(artifact(f"{path}/below"), method)
    await refused(artifact(path, len(CONTENT) + 1), method)
    await refused(artifact(path, len(CONTENT) - 1), method)
    assert descriptors(path) == 0


async def test_304_and_412_open_no_file(tmp_path: Path):
    app = artifact(str(tmp_path / "missing"))
    assert (await call(app, {"if-none-match": ETAG})).status == 304
    assert (await call(app, {"if-match": '"other"'})).status == 412


async def test_errors_of_the_file_system_are_raised(path: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        await call(artifact(path))


async def test_response_instance_is_reusable(path: str):
    app = artifact(path)
    answers: list[Answer] = []

    async def fetch(number: int) -> None:
        answers.append(await call(app, {"range": f"bytes=0-{number}"}))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(fetch, number)
    assert sorted(len(answer.body) for answer in answers) == list(range(1, 21))
    # A middleware may add to the list of headers it sees.
    answers[0].messages[0]["headers"].append((b"x-added", b"1"))
    assert "x-added" not in (await call(app)).headers


def descriptors(path: str) -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else ():
        try:
            count += os.readlink(f"/proc/self/fd/{fd}") == path
        except OSError:
            continue
    return count


class Bodies:
    """A `send` that keeps the bodies' lengths and does something at each."""

    def __init__(self, at_body: Callable[[int], Awaitable[None]]) -> None:
        self.lengths: list[int] = []
        self.complete = False
        self.at_body = at_body

    async def __call__(self, message: dict) -> None:
        if message["type"] == "http.response.body":
            self.lengths.append(len(message["body"]))
            self.complete = not message.get("more_body", False)
            await self.at_body(len(self.lengths))


async def test_truncated_small_file_raises_before_the_start(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    real = disk.LocalFile.read

    async def shrink(file: disk.LocalFile, offset: int, length: int) -> bytes:
        os.truncate(path, 5)
        return await real(file, offset, length)

    monkeypatch.setattr(disk.LocalFile, "read", shrink)

    async def send(message: dict) -> None:
        raise AssertionError("nothing may be sent")

    with pytest.raises(FileTruncated):
        await artifact(path)(scope("GET", {}), never, send)
    assert descriptors(path) == 0


async def test_truncated_big_file_ends_without_completion(big: tuple[str, bytes]):
    path, content = big

    async def shrink(count: int) -> None:
        os.truncate(path, CHUNK_SIZE + 1)

    send = Bodies(shrink)
    with pytest.raises(FileTruncated):
        await artifact(path, len(content))(scope("GET", {}), never, send)
    assert CHUNK_SIZE <= sum(send.lengths) <= CHUNK_SIZE + 1
    assert not send.complete
    assert descriptors(path) == 0


async def test_disconnect_is_noticed_where_send_does_not_raise(tmp_path: Path):
    path = hole(tmp_path / "huge", 1000 * CHUNK_SIZE)
    left = anyio.Event()

    async def receive() -> dict:
        if not left.is_set():
            await left.wait()
        return {"type": "http.disconnect"}

    async def leave(count: int) -> None:
        if count == 3:
            left.set()

    send = Bodies(leave)
    before = len(asyncio.all_tasks())
    await artifact(path, 1000 * CHUNK_SIZE)(scope("GET", {}), receive, send)
    assert len(send.lengths) < 10
    assert not send.complete
    assert descriptors(path) == 0
    assert len(asyncio.all_tasks()) == before


async def test_request_body_is_not_taken_for_a_disconnect(big: tuple[str, bytes]):
    path, content = big
    chunks = [{"type": "http.request", "body": b"x", "more_body": more} for more in (True, False)]

    async def receive() -> dict:
        return chunks.pop() if chunks else await never()

    assert (await call(artifact(path, len(content)), receive=receive)).body == content


async def test_disconnect_cancels_a_waiting_send(big: tuple[str, bytes]):
    path, content = big
    waiting = anyio.Event()

    async def receive() -> dict:
        await waiting.wait()
        return {"type": "http.disconnect"}

    async def wait(count: int) -> None:
        waiting.set()
        await anyio.sleep_forever()

    send = Bodies(wait)
    with anyio.fail_after(30):
        await artifact(path, len(content))(scope("GET", {}), receive, send)
    assert len(send.lengths) == 1
    assert descriptors(path) == 0


async def test_backpressure_reads_nothing_ahead_of_a_slow_client(
    big: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    path, content = big
    reads = 0
    real = disk.LocalFile.read

    async def counted(file: disk.LocalFile, offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return await real(file, offset, length)

    monkeypatch.setattr(disk.LocalFile, "read", counted)

    async def check(count: int) -> None:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert reads <= count

    send = Bodies(check)
    await artifact(path, len(content))(scope("GET", {}), never, send)
    assert send.complete


async def test_cancellation_while_sending_closes_the_file(big: tuple[str, bytes]):
    path, content = big
    sending = anyio.Event()

    async def wait(count: int) -> None:
        sending.set()
        await anyio.sleep_forever()

    app = artifact(path, len(content))
    before = len(asyncio.all_tasks())
    task = asyncio.ensure_future(app(scope("GET", {}), never, Bodies(wait)))
    await sending.wait()
    assert descriptors(path) <= 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descriptors(path) == 0
    assert len(asyncio.all_tasks()) == before


async def test_error_of_send_is_raised_unchanged(big: tuple[str, bytes]):
    path, content = big

    async def fail(count: int) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await artifact(path, len(content))(scope("GET", {}), never, Bodies(fail))
    assert descriptors(path) == 0


class Watched:
    """An app that records how its request ended, and which tasks it left behind."""

    def __init__(self, app: ArtifactResponse) -> None:
        self.app = app
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.tasks_left: set[asyncio.Task] = set()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        before = asyncio.all_tasks()
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            self.error = error
            raise
        finally:
            self.tasks_left = asyncio.all_tasks() - before
            self.ended.set()


class Server:
    """A real uvicorn on a free port; `apps` are served by their path."""

    def __init__(self) -> None:
        self.apps: dict[str, Callable] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.url = "http://{}:{}".format(*self.address)
        config = uvicorn.Config(self.app, interface="asgi3", log_level="critical", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))

    async def app(self, scope: dict, receive: Callable, send: Callable) -> None:
        await self.apps[scope["path"]](scope, receive, send)

    def __enter__(self) -> "Server":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.should_exit = True
        self.thread.join(300)
        self.listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def test_uvicorn_serves_200_206_304_and_416(server: Server, big: tuple[str, bytes]):
    path, content = big
    server.apps["/big"] = artifact(path, len(content))
    with httpx.Client(base_url=server.url) as client:
        whole = client.get("/big")
        assert (whole.status_code, whole.content) == (200, content)
        part = client.get("/big", headers={"Range": f"bytes=5-{2 * CHUNK_SIZE}"})
        assert (part.status_code, part.content) == (206, content[5 : 2 * CHUNK_SIZE + 1])
        several = client.get("/big", headers={"Range": f"bytes=0-{CHUNK_SIZE},-5"})
        assert several.status_code == 206
        assert content[: CHUNK_SIZE + 1] in several.content
        assert client.get("/big", headers={"If-None-Match": ETAG}).status_code == 304
        assert client.get("/big", headers={"Range": "bytes=99999999-"}).status_code == 416
        assert client.get("/big", headers={"If-Match": '"x"'}).status_code == 412
        head = client.head("/big")
        assert head.headers["content-length"] == str(len(content))
        # All on one connection, in step: no answer had a byte too few or too many.
        assert client.get("/big").content == content


def test_uvicorn_serves_concurrent_clients(server: Server, big: tuple[str, bytes]):
    path, content = big
    server.apps["/big"] = artifact(path, len(content))
    bodies: list[bytes] = []
    clients = [
        threading.Thread(target=lambda: bodies.append(httpx.get(f"{server.url}/big").content))
        for _ in range(8)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(300)
    assert bodies == [content] * 8


def test_uvicorn_disconnect_closes_the_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    size = 4 << 30
    path = hole(tmp_path / "huge", size)
    read_bytes = 0
    real = disk.LocalFile.read

    async def counted(file: disk.LocalFile, offset: int, length: int) -> bytes:
        nonlocal read_bytes
        data = await real(file, offset, length)
        read_bytes += len(data)
        return data

    monkeypatch.setattr(disk.LocalFile, "read", counted)
    app = server.apps["/huge"] = Watched(artifact(path, size))
    with socket.create_connection(server.address) as client:
        client.sendall(b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert app.ended.wait(300)
    assert app.error is None
    assert not app.tasks_left
    assert read_bytes < size // 8
    assert descriptors(path) == 0


def test_uvicorn_closes_the_connection_for_a_truncated_file(server: Server, tmp_path: Path):
    size = 256 << 20
    path = hole(tmp_path / "shrinking", size)
    app = server.apps["/shrinking"] = Watched(artifact(path, size))
    with (
        httpx.stream("GET", f"{server.url}/shrinking") as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        for number, _ in enumerate(response.iter_raw()):
            if number == 0:
                os.truncate(path, 100)
    assert app.ended.wait(300)
    assert isinstance(app.error, FileTruncated)
    assert not app.tasks_left
    assert descriptors(path) == 0
