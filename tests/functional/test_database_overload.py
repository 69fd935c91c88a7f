"""A database that is slower than requests arrive: bounded queues, and clients that leave."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.db import connection, transaction
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Message

from pulpcore.content_star import content
from pulpcore.content_star.cache.stale import StaleResponses
from pulpcore.content_star.content import Content
from pulpcore.content_star.database.availability import DatabaseOverloaded
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.database.threads import PAGE_THREADS
from pulpcore.content_star.plugin_host import context
from pulpcore.content_star.plugin_host.context import MountedRoutes
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.responses.disconnect import PendingRequests
from tests.support.asgi import state_of
from tests.support.database import backend_pid, count_waiting, opened_executor
from tests.support.instance import wait_until
from tests.support.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("orm")]

PAGE = {"Accept": "text/html"}


def test_executor_refuses_calls_while_one_has_waited_for_half_of_its_time():
    done = threading.Event()

    async def main(executor: DatabaseExecutor) -> None:
        first = asyncio.create_task(executor.run(done.wait, 300))
        second = asyncio.create_task(executor.run(backend_pid))
        await asyncio.to_thread(wait_until, lambda: executor._pool.is_congested)
        with pytest.raises(DatabaseOverloaded):
            await executor.run(backend_pid)
        done.set()
        assert await first and await second
        await asyncio.to_thread(wait_until, lambda: not executor._pool.is_congested)
        assert await executor.run(backend_pid)

    with opened_executor(1, timeout=20) as (executor, run):
        run(executor.run(backend_pid))
        run(main(executor))


def test_executor_bounds_the_number_of_waiting_calls(monkeypatch):
    monkeypatch.setattr("pulpcore.content_star.database.threads.MAX_WAITING", 3)
    done = threading.Event()

    async def main(executor: DatabaseExecutor) -> list[object]:
        calls = [asyncio.create_task(executor.run(done.wait, 300)) for _ in range(8)]
        await asyncio.wait(calls[5:])
        done.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    with opened_executor(2, timeout=300) as (executor, run):
        results = run(main(executor))
    assert results[:5] == [True] * 5
    assert [type(error) for error in results[5:]] == [DatabaseOverloaded] * 3


def waiting_request(
    left: asyncio.Event, path: str = "/", method: str = "GET", more_body: bool = False
) -> Request:
    """Send a request whose client disconnects when `left` is set."""
    messages = [{"type": "http.request", "body": b"", "more_body": more_body}]

    async def receive():
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": method, "path": path, "query_string": b""}
    headers = [(b"accept", b"text/html"), (b"host", b"pulp")]
    return Request({**scope, "headers": headers}, receive)


def test_client_that_leaves_the_queue_costs_nothing_more():
    done, ran = threading.Event(), []

    async def main(executor: DatabaseExecutor) -> None:
        left = asyncio.Event()
        first = asyncio.create_task(executor.run(done.wait, 300))
        lookup = partial(executor.run_directly, ran.append, 1)
        second = asyncio.create_task(PendingRequests().run(waiting_request(left), lookup))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(ClientDisconnect):
            await second
        done.set()
        assert await first
        await executor.run(backend_pid)

    with opened_executor(1, timeout=300) as (executor, run):
        run(main(executor))
    assert ran == []


@pytest.mark.parametrize("kind", ["file", "directory", "stale", "route", "with a body"])
def test_client_that_leaves_the_queue_of_content_costs_nothing_more(monkeypatch, kind):
    done, ran = threading.Event(), []
    monkeypatch.setattr(content, "respond", ran.append)
    monkeypatch.setattr(content, "respond_with_route", ran.append)
    monkeypatch.setattr(content, "has_routes", lambda: True)
    monkeypatch.setattr(StaleResponses, "has", lambda *_: kind == "stale")

    async def main(executor: DatabaseExecutor) -> None:
        left = asyncio.Event()
        path = "/content/base/a" if kind == "file" else "/content/base/"
        method = "POST" if kind == "route" else "GET"
        request = waiting_request(left, path, method, more_body=kind == "with a body")
        first = asyncio.create_task(executor.run(done.wait, 300))
        second = asyncio.create_task(Content(executor, "/content/").respond(request))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(second, 10)
        done.set()
        assert await first
        await executor.run(backend_pid)

    with opened_executor(1, timeout=300) as (executor, run):
        run(main(executor))
    assert ran == []


@pytest.mark.parametrize("waits_for", ["find_domain", "authenticate"])
def test_client_that_leaves_before_the_route_of_a_plugin_is_called(monkeypatch, waits_for):
    done = threading.Event()
    monkeypatch.setattr(context, "find_domain", lambda _: SimpleNamespace(name="default"))
    monkeypatch.setattr(context, waits_for, lambda _: done.wait(300))

    async def main(executor: DatabaseExecutor) -> None:
        left = asyncio.Event()
        request = waiting_request(left, "/plugin/")
        request.scope["headers"].append((b"authorization", b"Basic x"))
        state = state_of(route_executor=executor, pending_requests=PendingRequests())
        app = MountedRoutes("/plugin/", [])
        call = asyncio.create_task(app({**request.scope, "state": state}, request.receive, None))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(call, 10)
        done.set()

    with opened_executor(1, timeout=300) as (executor, run):
        try:
            run(main(executor))
        finally:
            done.set()


def not_found(
    executor: DatabaseExecutor, monkeypatch: pytest.MonkeyPatch, find: Callable[..., str]
) -> Callable[[], Coroutine[Any, Any, str | None]]:
    """Return a function that requests a 404 by a browser, and returns the directory it links to."""
    monkeypatch.setattr(content, "nearest_above", find)
    app = Content(executor, "/content/")

    async def send(message: Message) -> None:
        raise AssertionError(message)

    async def above() -> str | None:
        request = waiting_request(asyncio.Event(), "/elsewhere")
        with pytest.raises(HTTPException):
            await app(request.scope, request.receive, send)
        return request_info(request.scope).above

    return above


def test_link_of_404_does_not_wait_for_the_database(monkeypatch):
    """The second one is not looked up: all threads are busy."""
    done, begun = threading.Event(), []

    def find(*_: object) -> str:
        begun.append(1)
        done.wait(300)
        return "/content/"

    async def main(executor: DatabaseExecutor) -> None:
        above = not_found(executor, monkeypatch, find)
        links = [await asyncio.wait_for(above(), 60) for _ in range(2)]
        assert links == [None, None] and begun == [1]
        done.set()
        await executor.run(backend_pid)
        await asyncio.to_thread(wait_until, lambda: executor.has_free_thread)
        assert await above() == "/content/"

    with opened_executor(1, timeout=300) as (executor, run):
        try:
            run(main(executor))
        finally:
            done.set()


def test_message_that_was_received_while_waiting_is_received_again():
    async def main() -> None:
        left, watched = asyncio.Event(), asyncio.Event()
        request = waiting_request(left)
        receive = request._receive

        async def noted():
            watched.set()
            return await receive()

        request._receive = noted

        async def respond(scope, receive, send):
            received.append(await receive())
            await PlainTextResponse("")(scope, receive, send)

        async def work():
            await watched.wait()
            return respond

        async def send(message):
            pass

        received = []
        response = await PendingRequests().run(request, work)
        await response(request.scope, request.receive, send)
        assert [message["type"] for message in received] == ["http.request"]

    asyncio.run(main())


def test_body_that_was_received_in_parts_while_waiting_is_received_again():
    async def main() -> None:
        parts = [b"one", b"two"]
        watched = asyncio.Event()

        async def receive():
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": True}
            watched.set()
            return await asyncio.Future()

        async def respond(scope, receive, send):
            received.append(await receive())

        async def work():
            await watched.wait()
            return respond

        received = []
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        response = await asyncio.wait_for(PendingRequests().run(request, work), 60)
        await response(request.scope, request.receive, None)
        assert received == [{"type": "http.request", "body": b"onetwo", "more_body": True}]

    asyncio.run(main())


def test_clients_that_leave_while_a_table_is_locked_leave_a_server_that_works(instance, orm):
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    options = {
        "PULP_CONTENT_STAR_CACHE_ENTRIES": "0",
        "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "60",
        "PGAPPNAME": "left",
    }
    with serving(instance, **options) as server:
        url = f"{server.content_url}{base}/a"
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE core_distribution IN ACCESS EXCLUSIVE MODE")

            async def leave() -> list[object]:
                async with httpx.AsyncClient(timeout=2) as client:
                    gets = (client.get(url) for _ in range(20))
                    return await asyncio.gather(*gets, return_exceptions=True)

            assert {type(error) for error in asyncio.run(leave())} == {httpx.ReadTimeout}
            assert count_waiting("left")
        wait_until(lambda: not count_waiting("left"))
        assert httpx.get(url, timeout=60).content == b"a"
        assert "Exception in ASGI" not in server.said() and "Traceback" not in server.said()


def test_pages_that_wait_for_the_database_do_not_delay_files(instance, orm):
    """Pages have threads of their own; that of the index reads the locked table."""
    files = {f"{number}": b"%d" % number for number in range(8)}
    path = orm.distribution(publication=orm.publication(files))
    options = {"PGAPPNAME": "pages", "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "300"}
    with serving(instance, **options) as server, ThreadPoolExecutor(16) as pool:
        get = partial(httpx.get, timeout=300)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE core_repositoryversioncontentdetails")
            indexes = [pool.submit(get, server.content_url, headers=PAGE) for _ in range(16)]
            wait_until(lambda: count_waiting("pages") >= PAGE_THREADS)
            for name, data in files.items():
                assert get(f"{server.content_url}{path}/{name}").content == data
            assert not any(index.done() for index in indexes)
        assert {index.result().status_code for index in indexes} == {200}


def test_cached_404_for_browsers_does_not_wait_for_a_locked_table(instance, orm):
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    options = {"PGAPPNAME": "not-found", "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "300"}
    with serving(instance, PULP_CACHE_ENABLED="true", **options) as server:
        get = partial(httpx.get, f"{server.content_url}{base}/no", headers=PAGE, timeout=60)
        wait_until(lambda: get().headers.get("X-PULP-CACHE") == "HIT")
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE core_distribution IN ACCESS EXCLUSIVE MODE")
            assert {get().status_code for _ in range(8)} == {404}
        wait_until(lambda: f'<a href="/pulp/content/{base}/">' in get().text)
