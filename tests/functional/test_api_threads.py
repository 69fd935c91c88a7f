"""Django views under ASGI that expect WSGI: bodies, threads, event loops and uploads."""

import asyncio
import hashlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import clear_url_caches, path
from django.views.decorators.csrf import csrf_exempt

from pulpcore.content_star.django_app.handler import create_api
from pulpcore.content_star.django_app.slots import released_slot
from tests.support.instance import wait_until
from tests.support.server import Server, serving
from tests.support.views import serving_views


@csrf_exempt
def body(request: HttpRequest) -> HttpResponse:
    """Read from `wsgi.input`, as pulp_container and pulp_maven do, and then by Django's API."""
    start = request.META["wsgi.input"].read(4)
    return HttpResponse(start + b"|" + request.read())


def fetch(request: HttpRequest) -> HttpResponse:
    """Run a coroutine on the thread's event loop, as Pulp's downloaders do."""
    return HttpResponse(asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, "fetched")))


@pytest.fixture
def api(instance, monkeypatch):
    patterns = [path("body", body), path("fetch", fetch)]
    monkeypatch.setattr(f"{settings.ROOT_URLCONF}.urlpatterns", patterns)
    clear_url_caches()
    yield create_api()
    clear_url_caches()


def send(api, method: str, url: str, **content) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            return await client.request(method, url, **content)

    return asyncio.run(request())


def test_body_is_readable_from_wsgi_input(api):
    assert send(api, "PUT", "/body", content=b"0123456789").text == "0123|456789"


def test_view_may_run_an_event_loop_in_its_thread(api):
    assert send(api, "GET", "/fetch").text == "fetched"


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


start_thread = threading.Thread.start


def fail_for_views(thread: threading.Thread) -> None:
    """Start a thread, unless it is one for views."""
    if thread.name.startswith("api-"):
        raise RuntimeError("can't start new thread")
    start_thread(thread)


def test_api_recovers_after_no_thread_could_be_started(instance, monkeypatch):
    """As where a container has reached its number of processes: each request gets 500, no more."""
    with serving_views(hello) as url:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail_for_views)
            for _ in range(settings.CONTENT_STAR_API_THREADS + 1):
                assert httpx.get(f"{url}/hello").status_code == 500
        assert httpx.get(f"{url}/hello").text == "hello"


def test_api_request_for_which_no_thread_could_be_started_is_not_executed_later(
    instance, monkeypatch
):
    """The client may repeat a POST that got 500."""
    executed = []
    has_begun, may_end = threading.Event(), threading.Event()

    @csrf_exempt
    def create(request: HttpRequest) -> HttpResponse:
        executed.append(request.GET["name"])
        has_begun.set()
        may_end.wait(300)
        return HttpResponse("created")

    with (
        serving_views(create, CONTENT_STAR_API_THREADS=2) as url,
        ThreadPoolExecutor(1) as clients,
    ):

        def post(name: str) -> int:
            return httpx.post(f"{url}/create?name={name}", timeout=300).status_code

        first = clients.submit(post, "first")
        assert has_begun.wait(300)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail_for_views)
            assert post("second") == 500
        may_end.set()
        assert first.result() == 200
        assert [post("third") for _ in range(3)] == [200] * 3, "each slot is free again"
    assert executed == ["first", "third", "third", "third"]


def test_views_that_hash_go_on_after_a_time_without_threads(instance, monkeypatch):
    """Each has a thread, and so have the requests that got its slot."""
    begun = threading.Semaphore(0)
    may_end = threading.Event()

    def hashing(request: HttpRequest) -> HttpResponse:
        with released_slot():
            begun.release()
            assert may_end.wait(300)
        return HttpResponse("hashed")

    def waiting(request: HttpRequest) -> HttpResponse:
        begun.release()
        assert may_end.wait(300)
        return HttpResponse("waited")

    with (
        serving_views(hashing, waiting, CONTENT_STAR_API_THREADS=2) as url,
        ThreadPoolExecutor(4) as clients,
    ):

        def status(name: str) -> int:
            return httpx.get(f"{url}/{name}", timeout=300).status_code

        def begin(name: str) -> list[Future[int]]:
            requests = [clients.submit(status, name) for _ in range(2)]
            assert all(begun.acquire(timeout=300) for _ in requests)
            return requests

        requests = begin("hashing")
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail_for_views)
            assert [status("waiting") for _ in range(2)] == [500, 500]
        may_end.set()
        assert [each.result() for each in requests] == [200, 200]
        may_end.clear()
        requests = begin("hashing") + begin("waiting")
        may_end.set()
        assert [each.result() for each in requests] == [200] * 4


def test_api_requests_beyond_the_bound_of_waiting_ones_get_503(instance, monkeypatch, capsys):
    """One runs, two wait, the others are refused at once, but for the probe; it is logged once."""
    may_end = threading.Event()

    def slow(request: HttpRequest) -> HttpResponse:
        may_end.wait(300)
        return HttpResponse("served")

    patterns = [path("slow", slow), path("livez/", slow)]
    monkeypatch.setattr(f"{settings.ROOT_URLCONF}.urlpatterns", patterns)
    clear_url_caches()

    async def main() -> tuple[list[httpx.Response], httpx.Response]:
        api = create_api()
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            tasks = [asyncio.create_task(client.get("/slow")) for _ in range(6)]
            refused, admitted = set(), set(tasks)
            while len(refused) < 3:
                done, admitted = await asyncio.wait(admitted, return_when="FIRST_COMPLETED")
                refused |= done
            probe = asyncio.create_task(client.get("/livez/"))
            await asyncio.sleep(0)
            may_end.set()
            return [task.result() for task in refused], await asyncio.gather(probe, *admitted)

    with override_settings(CONTENT_STAR_API_THREADS=1, CONTENT_STAR_API_WAITING=2):
        refused, served = asyncio.run(main())
    assert [response.status_code for response in refused] == [503] * 3
    assert all(int(response.headers["Retry-After"]) for response in refused)
    assert [response.text for response in served] == ["served"] * 4
    assert capsys.readouterr().err.count("threads (1) are all in use, and 2 requests wait") == 1
    clear_url_caches()


def test_api_without_waiting_requests_serves_while_a_thread_is_free(instance):
    has_started, may_end = threading.Event(), threading.Event()

    def hold(request: HttpRequest) -> HttpResponse:
        has_started.set()
        may_end.wait(300)
        return HttpResponse("held")

    with (
        ThreadPoolExecutor(1) as threads,
        serving_views(hold, hello, CONTENT_STAR_API_THREADS=1, CONTENT_STAR_API_WAITING=0) as url,
    ):
        assert httpx.get(f"{url}/hello").text == "hello"
        held = threads.submit(httpx.get, f"{url}/hold")
        try:
            wait_until(has_started.is_set)
            assert httpx.get(f"{url}/hello").status_code == 503
        finally:
            may_end.set()
        assert held.result().text == "held"
        assert httpx.get(f"{url}/hello").text == "hello"


MEGABYTE = 1 << 20
SIZE = 100 * MEGABYTE
BOUNDARY = "boundary"
BEGIN = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def server(instance) -> Iterator[Server]:
    with serving(instance) as server:
        yield server


def spooled(folder: str) -> list[int]:
    """Return the sizes in bytes of the temporary upload files in a folder."""
    sizes = []
    for file in Path(folder).glob("*.upload*"):
        with suppress(FileNotFoundError):
            sizes.append(file.stat().st_size)
    return sizes


def written(server: Server, thread: int | None = None) -> int:
    """Return the bytes that a server, or one of its threads, has written in all."""
    process = Path(f"/proc/{server.process.pid}")
    file = process / (f"task/{thread}/io" if thread else "io")
    counts = dict(line.split(": ") for line in file.read_text().splitlines())
    return int(counts["wchar"])


def test_large_upload_is_written_to_the_working_directory_by_threads(instance, server):
    folder = str(instance.state.working_directory)
    loop = server.process.pid  # the id of the main thread, too
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield BEGIN
        for _ in range(SIZE // MEGABYTE):
            data = random.randbytes(MEGABYTE)
            digest.update(data)
            yield data
        wait_until(lambda: any(size > SIZE // 2 for size in spooled(folder)))
        yield END

    before, before_by_loop = written(server), written(server, loop)
    response = httpx.post(
        f"{server.url}/pulp/api/v3/artifacts/",
        content=body(),
        headers={
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Length": str(len(BEGIN) + SIZE + len(END)),
        },
        auth=(instance.username, instance.password),
    )
    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == digest.hexdigest()
    assert written(server) - before >= SIZE
    assert written(server, loop) - before_by_loop < MEGABYTE
    wait_until(lambda: not spooled(folder))


def test_client_disconnect_during_an_upload_leaves_no_temporary_file(instance, server):
    folder = str(instance.state.working_directory)

    def body() -> Iterator[bytes]:
        yield BEGIN
        for _ in range(10):
            yield bytes(MEGABYTE)
        wait_until(lambda: spooled(folder))
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(
            f"{server.url}/pulp/api/v3/artifacts/",
            content=body(),
            headers={
                "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
                "Content-Length": str(SIZE),
            },
            auth=(instance.username, instance.password),
        )
    wait_until(lambda: not spooled(folder))


@pytest.mark.parametrize(("name", "length"), [("Content-Type", 1024), ("Accept", 4096)])
def test_header_that_is_slow_to_parse_returns_431_when_too_long(instance, name, length):
    with httpx.Client(base_url=instance.url) as client:
        for size, status in ((length, 200), (length + 1, 431), (1_000_000, 431)):
            value = ("text/html," * size)[:size] if name == "Accept" else ";" * size
            response = client.get("/pulp/api/v3/status/", headers={name: value})
            assert response.status_code == status, response.text


def test_parallel_openapi_schemas_equal_sequential_ones(instance):
    """The rest framework's generator stores the described view in an attribute of its class."""
    queries = ["component=core", "component=file", "component=core&pk_path=1"]

    def schema(query: str) -> dict[str, object]:
        # Pulp caches a document by its URL for 100 days.
        url = f"{server.url}/pulp/api/v3/docs/api.json?{query}&fresh={uuid4()}"
        return httpx.get(url, timeout=600).raise_for_status().json()["paths"]

    with serving(instance) as server, ThreadPoolExecutor(len(queries)) as threads:
        sequential = list(map(schema, queries))
        assert list(threads.map(schema, queries)) == sequential
