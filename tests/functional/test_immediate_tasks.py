"""Immediate tasks, run by the API: concurrent clients, directories of threads, no unshare(2)."""

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.support import launch, tasking
from tests.support.instance import Instance, in_venv, wait_until
from tests.support.orm import Orm
from tests.support.pulp import API, FINAL_STATES
from tests.support.server import Server, free_port, running

pytestmark = pytest.mark.slow

CLIENTS = 8
Requests = Callable[[httpx.Client, int], Any]


def launched(instance: Instance, *options: str, **environ: str) -> AbstractContextManager[Server]:
    """Run a server with the plugin by `launch.py` with `options`."""
    port = free_port()
    uvicorn = [*in_venv(["uvicorn"]), "pulpcore.routing:application", "--port", str(port)]
    command = [sys.executable, launch.__file__, *options, *uvicorn]
    return running(instance, command, f"http://127.0.0.1:{port}", **tasking.installed(**environ))


UNSHARE: list[str] = []
NO_UNSHARE = ["--no-unshare"]


@pytest.fixture(scope="module", params=[UNSHARE, NO_UNSHARE], ids=["unshare", "no-unshare"])
def options(request: pytest.FixtureRequest) -> list[str]:
    """The options of `launch.py`."""
    return request.param


@pytest.fixture(scope="module")
def server(instance: Instance, options: list[str]) -> Iterator[Server]:
    with launched(instance, *options) as server:
        yield server
        assert "Traceback" not in server.said()
        assert_current_directory(server, instance)


def assert_current_directory(server: Server, instance: Instance) -> None:
    """Check that the current directory of the process is WORKING_DIRECTORY."""
    cwd = os.readlink(f"/proc/{server.process.pid}/cwd")
    assert cwd == str(instance.state.working_directory)


@contextmanager
def logged_in(instance: Instance, server: Server) -> Iterator[httpx.Client]:
    with instance.client() as client:
        client.base_url = server.url
        yield client


def in_parallel(
    instance: Instance, server: Server, work: Requests, clients: int = CLIENTS
) -> list[Any]:
    """Run `work` with `clients` concurrent clients; its arguments are a client and its number.

    They have connections of their own, and one session: a login takes a quarter of a second of CPU.
    """
    with logged_in(instance, server) as admin, ThreadPoolExecutor(clients) as pool:

        def run(number: int) -> Any:
            session = {"cookies": admin.cookies, "headers": admin.headers}
            with httpx.Client(base_url=server.url, **session) as client:
                return work(client, number)

        return list(pool.map(run, range(clients)))


def final_state(client: httpx.Client, response: httpx.Response) -> str:
    """Wait for the task of a response, and return its final state."""
    assert response.status_code == 202, response.text
    href = response.json()["task"]
    states: list[str] = []

    def has_ended() -> bool:
        states.append(client.get(href).json()["state"])
        return states[-1] in FINAL_STATES

    wait_until(has_ended)
    return states[-1]


def patch_remote(client: httpx.Client, number: int, times: int = 5) -> list[int]:
    """Create a remote, PATCH it `times` times, and return the statuses of the responses."""
    fields = {"name": Orm.unique(), "url": "http://127.0.0.1/"}
    href = client.post(f"{API}remotes/file/file/", json=fields).json()["pulp_href"]
    statuses = []
    for i in range(times):
        response = client.patch(href, json={"url": f"http://127.0.0.1/{number}/{i}"})
        statuses.append(response.status_code)
        if response.is_success:
            assert final_state(client, response) == "completed"
    assert client.get(href).json()["url"].endswith(f"/{number}/{times - 1}")
    assert final_state(client, client.delete(href)) == "completed"
    return statuses


def upload_artifacts(client: httpx.Client, number: int, times: int = 3) -> list[int]:
    """Upload files of 3 MB, which Django writes to temporary files, and check their digests."""
    statuses = []
    for _ in range(times):
        data = os.urandom(3_000_000)
        response = client.post(f"{API}artifacts/", files={"file": ("name", data)})
        statuses.append(response.status_code)
        if response.is_success:
            assert response.json()["sha256"] == hashlib.sha256(data).hexdigest()
    return statuses


def upload_in_chunks(client: httpx.Client, number: int, times: int = 3) -> list[int]:
    """Upload files in two chunks each, and commit them by a task of a worker."""
    statuses = []
    for _ in range(times):
        halves = os.urandom(500_000), os.urandom(500_000)
        size = sum(map(len, halves))
        created = client.post(f"{API}uploads/", json={"size": size})
        statuses.append(created.status_code)
        href, start = created.json()["pulp_href"], 0
        for half in halves:
            response = client.put(
                href,
                files={"file": ("chunk", half)},
                headers={"Content-Range": f"bytes {start}-{start + len(half) - 1}/{size}"},
            )
            statuses.append(response.status_code)
            start += len(half)
        digest = hashlib.sha256(b"".join(halves)).hexdigest()
        committed = client.post(f"{href}commit/", json={"sha256": digest})
        statuses.append(committed.status_code)
        assert final_state(client, committed) == "completed"
    return statuses


def run_task(client: httpx.Client, name: str, **arguments: object) -> dict[str, Any]:
    """Run an immediate task in a view of the plugin, and return its state, result and error."""
    response = client.get(f"/pulp/tasking/tasks/{name}", params=arguments)
    assert response.status_code == 200, response.text
    return response.json()


def test_parallel_updates_of_remotes_all_succeed(instance, server):
    statuses = [*chain(*in_parallel(instance, server, patch_remote))]
    assert statuses == [202] * 5 * CLIENTS, server.said()
    assert_current_directory(server, instance)


def test_parallel_uploads_chunks_and_tasks_all_succeed(instance, server):
    kinds: list[Requests] = [patch_remote, upload_artifacts, upload_in_chunks]
    answers = in_parallel(instance, server, lambda client, i: kinds[i % 3](client, i), 9)
    assert {status // 100 for status in chain(*answers)} == {2}, server.said()
    assert_current_directory(server, instance)


def test_relative_files_of_parallel_tasks_are_separate(instance, server):
    def write(client: httpx.Client, number: int) -> list[dict[str, Any]]:
        return [run_task(client, "write", text=f"{number} {i}") for i in range(5)]

    directories = set()
    for number, tasks in enumerate(in_parallel(instance, server, write)):
        for i, task in enumerate(tasks):
            assert task["error"] is None
            assert task["result"]["files"] == ["note"]
            assert task["result"]["text"] == f"{number} {i}"
            directories.add(Path(task["result"]["directory"]))
    assert len(directories) == 5 * CLIENTS
    assert {each.parent for each in directories} == {instance.state.working_directory}


def test_directories_of_tasks_are_removed(instance, options):
    with launched(instance, *options) as server:
        client = httpx.Client(base_url=server.url)
        directory = Path(run_task(client, "write", text="x")["result"]["directory"])
        # Without unshare(2), all threads share a current directory, and it is removed later.
        assert directory.exists() == bool(options)
    assert not directory.exists()


def test_task_that_changes_to_a_removed_directory_harms_no_other(instance, server):
    with logged_in(instance, server) as client:
        assert run_task(client, "move_away")["state"] == "failed"
        assert run_task(client, "write", text="x")["result"]["files"] == ["note"]
        assert set(patch_remote(client, 0, 2)) == {202}
        assert client.get("/pulp/content/readyz").text == "ok\n"
    assert_current_directory(server, instance)


@pytest.mark.parametrize("options", [UNSHARE], indirect=True)
def test_tasks_run_concurrently_where_threads_have_directories(instance, server, tmp_path):
    arguments = {"others": tmp_path, "count": CLIENTS}
    met = in_parallel(
        instance, server, lambda client, i: run_task(client, "meet", member=i, **arguments)
    )
    assert [task["result"] for task in met] == ["met"] * CLIENTS


def test_task_that_blocks_does_not_block_other_clients(server, tmp_path):
    begun, end = tmp_path / "begun", tmp_path / "end"
    answers: list[dict[str, Any]] = []
    with httpx.Client(base_url=server.url) as client:
        thread = Thread(
            target=lambda: answers.append(run_task(client, "block", begun=begun, end=end))
        )
        thread.start()
        try:
            wait_until(begun.exists, explain=server.said)
            response = httpx.get(f"{server.content_url}readyz")
            assert response.text == "ok\n"
            assert httpx.get(f"{server.url}{API}livez/").is_success
        finally:
            end.touch()
            thread.join()
    assert answers[0]["result"] == "ended"


def test_client_disconnect_does_not_cancel_a_task(instance, server, tmp_path):
    from pulpcore.app.models import Task

    begun, end = tmp_path / "begun", tmp_path / "end"
    arguments = {"begun": str(begun), "end": str(end)}
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port)) as connection:
        target = f"/pulp/tasking/tasks/wait?{httpx.QueryParams(arguments)}"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(begun.exists, explain=server.said)
    # By the response to another request, the server has noticed the disconnect.
    assert httpx.get(f"{server.url}{API}livez/").is_success
    end.touch()
    task = Task.objects.filter(name="pulp_tasking.app.tasks.wait").latest("pulp_created")

    def state() -> str:
        task.refresh_from_db()
        return task.state

    wait_until(lambda: state() in FINAL_STATES, explain=state)
    assert (task.state, task.result) == ("completed", "ended")


@pytest.mark.parametrize("options", [UNSHARE], indirect=True)
def test_umask_of_a_view_is_that_of_its_thread(server):
    status = Path(f"/proc/{server.process.pid}/status")
    assert "Umask:\t0022\n" in status.read_text()
    assert httpx.get(f"{server.url}/pulp/tasking/umask").is_success
    assert "Umask:\t0022\n" in status.read_text()


def test_current_directory_elsewhere_and_when_it_is_removed(instance, options, tmp_path):
    """WORKING_DIRECTORY is not on the import path, and replaces the directory."""
    start = tmp_path / "start"
    start.mkdir()
    module = instance.state.working_directory / "left_by_a_task.py"
    module.touch()
    with launched(instance, "--cwd", str(start), *options) as server:
        try:
            url = f"{server.url}/pulp/tasking/importable"
            assert httpx.get(f"{url}/pathlib").json() == {"result": True}
            assert httpx.get(f"{url}/{module.stem}").json() == {"result": False}
        finally:
            module.unlink()
        start.rmdir()
        with logged_in(instance, server) as client:
            assert set(patch_remote(client, 0, 2)) == {202}
            assert client.get("/pulp/content/readyz").text == "ok\n"
        assert_current_directory(server, instance)
        assert f"changing to {instance.state.working_directory}" in server.said()


def test_readyz_without_working_directory_returns_503(instance, options, tmp_path):
    directory = tmp_path / "work"
    directory.mkdir()
    with launched(instance, *options, PULP_WORKING_DIRECTORY=str(directory)) as server:
        url = f"{server.content_url}readyz"
        assert httpx.get(url).text == "ok\n"
        directory.rmdir()
        response = httpx.get(url)
        assert response.status_code == 503
        assert response.text.startswith("WORKING_DIRECTORY is missing")
        directory.mkdir()
        assert httpx.get(url).text == "ok\n"
        with logged_in(instance, server) as client:
            assert set(patch_remote(client, 0, 2)) == {202}
