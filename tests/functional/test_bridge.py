"""The aiohttp bridge: routes that a legacy plugin adds to upstream's content app."""

import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from tests.support.bridged import installed
from tests.support.instance import Instance, wait_until
from tests.support.orm import Orm
from tests.support.remote_server import serving_upstream
from tests.support.server import Server, free_port, serving

MEGABYTE = 1024**2


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    """The directory in which the plugin's handlers record events."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def server(instance: Instance, notes: Path):
    """A server with the plugin, with CACHE_ENABLED and a Redis that does not exist."""
    cache = {
        "PULP_CACHE_ENABLED": "true",
        "PULP_REDIS_URL": "redis://127.0.0.1:1",
        "PULP_CONTENT_STAR_DATABASE_THREADS": "3",
    }
    with serving(instance, **installed(notes, **cache)) as server:
        yield server
    assert (notes / "ended").exists(), "the cleanup context of the aiohttp application ran"


@pytest.fixture(scope="module")
def plugin(server: Server):
    """The plugin's own prefix, as an anonymous client."""
    url = f"{server.url}/pulp/bridged/"
    with httpx.Client(base_url=url) as client:
        yield client


def address(server: Server) -> tuple[str, int]:
    url = httpx.URL(server.url)
    return url.host, url.port


def test_aiohttp_handler_receives_the_request_and_its_response_is_sent(plugin, server):
    response = plugin.put(
        "hello/a%20b?q=%C3%A9&q=2",
        content="body é".encode(),
        headers={"X-Header": "é".encode(), "Cookie": "c=1; d=2", "Content-Type": "text/plain"},
    )
    seen = response.json()
    assert seen == {
        "method": "PUT",
        "name": "a b",
        "path": "/pulp/bridged/hello/a b",
        "raw_path": "/pulp/bridged/hello/a%20b?q=%C3%A9&q=2",
        "query": [["q", "é"], ["q", "2"]],
        "cookies": {"c": "1", "d": "2"},
        "header": "é",
        "scheme": "http",
        "url": f"{server.url}/pulp/bridged/hello/a%20b?q=%C3%A9&q=2",
        "remote": "127.0.0.1",
        "user": "AnonymousUser",
        "authenticated": False,
        "drf": "default",
        "domain": "default",
        "app": "started",
        "body": "body é",
    }
    assert response.headers["Set-Cookie"].startswith("seen=1")
    assert response.headers["X-Middleware"] == "200"
    assert response.headers["X-Signal"] == "prepared"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"].startswith("sandbox")
    assert response.headers["Correlation-ID"]
    assert response.headers.get_list("Server") == ["uvicorn"]
    assert len(response.headers.get_list("Date")) == 1


def test_aiohttp_handler_has_the_authenticated_user(plugin, instance):
    seen = plugin.get("hello/x", auth=(instance.username, instance.password)).json()
    assert (seen["user"], seen["authenticated"]) == ("admin", True)
    assert plugin.get("hello/x", auth=("admin", "wrong")).json()["authenticated"] is False


def test_aiohttp_handler_session_needs_a_csrf_token_for_unsafe_methods(plugin, instance):
    with instance.client() as browser:
        cookies, token = dict(browser.cookies), browser.cookies["csrftoken"]
    session = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}

    def is_authenticated(method: str, **headers: str) -> bool:
        response = plugin.request(method, "hello/x", headers={**session, **headers})
        return response.json()["authenticated"]

    assert is_authenticated("GET")
    assert not is_authenticated("POST")
    assert is_authenticated("POST", **{"X-CSRFToken": token})
    foreign = {"X-CSRFToken": token, "Origin": "https://elsewhere.example"}
    assert not is_authenticated("DELETE", **foreign)


def test_aiohttp_exceptions_are_responses_and_others_return_500_without_details(plugin, server):
    response = plugin.get("found")
    assert (response.status_code, response.headers["Location"]) == (302, "/elsewhere")
    assert (response.headers["X-Why"], response.headers["X-Middleware"]) == ("moved", "302")
    response = plugin.get("broken")
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert response.headers["Correlation-ID"] in response.text
    assert "LookupError" in server.said()
    assert plugin.get("nothing").status_code == 500
    assert plugin.get("no/such/route").status_code == 404
    response = plugin.delete("form")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    with pytest.raises(httpx.RemoteProtocolError):
        plugin.get("cut")


def test_aiohttp_handler_receives_form_uploads(plugin):
    data, files = {"field": "value"}, {"file": ("name.bin", b"x" * 300_000)}
    response = plugin.post("form", data=data, files=files)
    assert response.json() == ["value", "name.bin", 300_000]
    files = {"file": ("name.bin", b"x" * 2 * MEGABYTE)}
    assert plugin.post("form", data=data, files=files).status_code == 413, "aiohttp's own limit"


def test_aiohttp_stream_may_be_compressed(plugin):
    response = plugin.get("compressed", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.text == "again and " * 10_000
    assert response.num_bytes_downloaded < 10_000


def peak(pid: int) -> int:
    """Return the peak memory of a process in bytes since `reset_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def reset_peak(pid: int) -> None:
    """Reset the peak to the current size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_large_body_is_streamed_with_bounded_memory(plugin, server):
    assert plugin.post("echo", content=b"warm up" * 100_000).status_code == 200
    size = 50 * MEGABYTE
    block = os.urandom(MEGABYTE)
    pid = server.process.pid
    reset_peak(pid)
    before = peak(pid)
    received = hashlib.sha256()
    with socket.create_connection(address(server), timeout=300) as connection:

        def send() -> None:
            head = f"POST /pulp/bridged/echo HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode())
            for _ in range(50):
                connection.sendall(block)

        sender = threading.Thread(target=send)
        sender.start()
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        count = 0
        while data := response.read(MEGABYTE):
            received.update(data)
            count += len(data)
        sender.join(300)
    assert count == size
    assert received.digest() == hashlib.sha256(block * 50).digest()
    assert peak(pid) - before < 15 * MEGABYTE


def test_slow_client_pauses_the_handler_and_client_disconnect_cancels_it(server, notes):
    for name in ("sent", "cancelled"):
        (notes / name).unlink(missing_ok=True)

    def sent() -> int:
        text = (notes / "sent").read_text() if (notes / "sent").exists() else ""
        return int(text or 0)

    with socket.create_connection(address(server), timeout=300) as connection:
        connection.sendall(b"GET /pulp/bridged/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100)
        # Until the buffers of both sockets are full and the handler is paused.
        last = -1

        def stuck() -> bool:
            nonlocal last
            last, before = sent(), last
            return last > 0 and last == before

        wait_until(stuck)
        assert last < 50 * MEGABYTE
        assert not (notes / "cancelled").exists()
    wait_until((notes / "cancelled").exists)


def test_websocket_upgrade_returns_501(server):
    handshake = (
        b"GET /pulp/bridged/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    with socket.create_connection(address(server), timeout=300) as connection:
        connection.sendall(handshake)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 501
        assert b"Pulp does not support WebSocket" in response.read()


def test_blocking_calls_use_at_most_one_database_connection_per_thread(plugin):
    pids = plugin.get("connections/40").json()
    assert 1 < len(pids) <= 3
    again = plugin.get("connections/40").json()
    assert set(again) <= set(pids) or len({*pids, *again}) <= 3


def test_database_cursor_may_be_used_from_several_threads(plugin, orm):
    names = {orm.distribution() for _ in range(9)}
    found = plugin.get("iterate").json()
    from pulp_file.app.models import FileDistribution

    paths = FileDistribution.objects.filter(name__in=found).values_list("base_path", flat=True)
    assert names <= set(paths)


def test_database_connection_that_is_lost_is_replaced(plugin):
    from django.db import connection

    pids = plugin.get("connections/40").json()
    with connection.cursor() as cursor:
        for pid in pids:
            cursor.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
    again = plugin.get("connections/40").json()
    assert again
    assert set(again).isdisjoint(pids)


def test_aiohttp_sub_applications_have_their_own_prefix_and_middlewares(server):
    response = httpx.get(f"{server.url}/pulp/bridged-part/x")
    assert response.text == "part x"
    assert (response.headers["X-Part"], response.headers["X-Middleware"]) == ("yes", "200")
    response = httpx.get(f"{server.url}/pulp/bridged-particle/x")
    assert "X-Middleware" not in response.headers


def test_routes_below_the_content_prefix_hide_no_distributions(server, orm):
    base = orm.distribution("bridged-api/deep/er", publication=orm.publication({"a.txt": b"a"}))
    with httpx.Client(base_url=server.content_url) as content:
        assert content.get("bridged-api/x").json()["name"] == "x"
        assert content.get(f"{base}/a.txt").content == b"a"
        assert content.get("bridged-api/").status_code == 200
        assert content.post("bridged-api/x").status_code == 405


def test_routes_that_overlap_pulp_are_refused_and_reported(server):
    problem = "routes at / overlap paths of Pulp"
    assert problem in server.said()
    reported = status(server)["bridged"]
    assert (reported["served"], reported["problem"]) == ("bridged", problem)
    assert "/pulp/bridged/files/" in reported["prefixes"]
    response = httpx.get(f"{server.url}/pulp/v2/")
    assert "X-Why" not in response.headers


def test_bridged_plugin_is_deprecated_with_the_release_that_ends_it(server):
    reported = status(server)
    bridged = reported["bridged"]
    assert (bridged["reports"], bridged["ends_with"]) == ([], "2.0")
    assert (reported["core"]["reports"], reported["core"]["ends_with"]) == ([], None)
    warnings = [line for line in server.said().splitlines() if "is deprecated" in line]
    (warning,) = [line for line in warnings if "plugin bridged" in line]
    assert "goes with pulp-content-star 2.0: it reports nothing, and has " in warning


def status(server: Server) -> dict[str, dict]:
    """Return the server's report about its plugins, by label."""
    as_json = {"Accept": "application/json"}
    reported = httpx.get(f"{server.content_url}readyz", headers=as_json).json()
    return {each["label"]: each for each in reported["plugins"]}


def test_aiohttp_application_is_started_once(server, notes):
    assert (notes / "started").read_text() == "once"


def test_working_directory_is_not_changed_by_handlers(plugin, instance):
    """The tests' servers are started in WORKING_DIRECTORY."""
    assert plugin.get("cwd").text == str(instance.state.working_directory)


@pytest.fixture
def guarded(orm: Orm, pulp) -> str:
    """The base path of a repository behind a header guard."""
    guard = pulp.create(
        "contentguards/core/header/", name=orm.unique(), header_name="x-key", header_value="open"
    )
    repository = pulp.repository({"dir/a.txt": b"0123456789"})
    pulp.publish(repository)
    return pulp.distribute(repository=repository, content_guard=guard["pulp_href"])


KEY = {"X-Key": "b3Blbg=="}


def test_handler_of_pulpcore_sends_files_as_native_content(plugin, guarded):
    url = f"files/{guarded}/dir/a.txt"
    assert plugin.get(url).status_code == 403
    response = plugin.get(url, headers=KEY)
    assert response.content == b"0123456789"
    assert response.headers["ETag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    assert response.headers["Content-Type"] == "text/plain"
    assert 'filename="a.txt"' in response.headers["Content-Disposition"]
    assert "must-revalidate" in response.headers["Cache-Control"]
    assert "distribution-" in response.headers["Surrogate-Key"]
    assert response.headers["Last-Modified"]
    assert "X-PULP-CACHE" not in response.headers
    assert plugin.get(url, headers={**KEY, "Range": "bytes=2-4"}).content == b"234"
    several = plugin.get(url, headers={**KEY, "Range": "bytes=2-4,6-"})
    assert several.headers["Content-Type"].startswith("multipart/byteranges")
    same = {"If-None-Match": response.headers["ETag"]}
    assert plugin.get(url, headers={**KEY, **same}).status_code == 304
    assert plugin.get(url, headers=same).status_code == 403, "no 304 before the guard"
    head = plugin.head(url, headers=KEY)
    assert (head.content, head.headers["Content-Length"]) == (b"", "10")
    assert "a.txt" in plugin.get(f"files/{guarded}/dir/", headers=KEY).text
    assert plugin.get(f"files/{guarded}/nope", headers=KEY).status_code == 404
    assert plugin.get("files/no/such/thing").status_code == 404


def test_cache_decorator_of_pulpcore_caches_nothing(plugin, guarded, pulp):
    url = f"by-name/{guarded}/name/dir/a.txt"
    response = plugin.get(url, headers=KEY)
    assert (response.content, response.headers["X-By"]) == (b"0123456789", "name")
    assert plugin.get(url).status_code == 403
    repository = pulp.http.get(
        "/pulp/api/v3/distributions/file/file/", params={"base_path": guarded}
    ).json()["results"][0]["repository"]
    content = pulp.http.get(
        "/pulp/api/v3/content/file/files/",
        params={"repository_version": f"{repository}versions/1/"},
    ).json()["results"][0]["pulp_href"]
    pulp.remove(repository, content)
    assert plugin.get(url, headers=KEY).status_code == 404, "right after the change"


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_cache_decorator_of_pulpcore_does_not_use_redis(instance, tmp_path):
    port = str(free_port())
    redis = ["redis-server", "--port", port, "--save", "", "--dir", str(tmp_path)]
    url = f"redis://127.0.0.1:{port}"
    cache = {"PULP_CACHE_ENABLED": "true", "PULP_REDIS_URL": url}
    with subprocess.Popen(redis, stdout=subprocess.DEVNULL) as process:
        try:
            with serving(instance, **installed(tmp_path, **cache)) as server:
                url = f"{server.url}/pulp/bridged/counted"
                counts = [httpx.get(url).text for _ in range(3)]
        finally:
            process.terminate()
    assert counts == ["1", "2", "3"]


def test_on_demand_file_of_a_handler_is_fetched_once(plugin, server, pulp):
    with serving_upstream() as upstream:
        upstream.files = {"far.txt": b"far away" * 1000}
        upstream.files["PULP_MANIFEST"] = upstream.manifest("far.txt")
        remote = pulp.create(
            "remotes/file/file/",
            name=Orm.unique(),
            url=f"{upstream.url}PULP_MANIFEST",
            policy="on_demand",
        )
        repository = pulp.repository(autopublish=True)
        sync = {"remote": remote["pulp_href"]}
        pulp.task(pulp.http.post(f"{repository}sync/", json=sync))
        base = pulp.distribute(repository=repository)
        for url in (f"by-name/{base}/name/far.txt", f"files/{base}/far.txt"):
            part = plugin.get(url, headers={"Range": "bytes=0-2"})
            assert (part.status_code, part.content) == (206, b"far")
            response = plugin.get(url)
            assert response.content == b"far away" * 1000
            assert response.headers["ETag"]
        assert upstream.gets["far.txt"] == 1
        upstream.files.clear()


@pytest.mark.parametrize("policy", ["on_demand", "streamed"])
def test_on_demand_blob_has_the_headers_of_a_saved_one(plugin, pulp, policy):
    """pulp_container sets the headers for saved blobs only, and leaves others to the remote."""
    data = random.randbytes(5000)
    name = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with serving_upstream() as upstream:
        upstream.files = {name: data}
        upstream.files["PULP_MANIFEST"] = upstream.manifest(name)
        remote = pulp.create(
            "remotes/file/file/",
            name=Orm.unique(),
            url=f"{upstream.url}PULP_MANIFEST",
            policy=policy,
        )
        repository = pulp.repository(autopublish=True)
        sync = {"remote": remote["pulp_href"]}
        pulp.task(pulp.http.post(f"{repository}sync/", json=sync))
        url = f"by-name/{pulp.distribute(repository=repository)}/name/{name}"
        answers = [plugin.head(url), plugin.get(url), plugin.get(url), plugin.head(url)]
        for answer in answers:
            assert answer.status_code == 200
            assert answer.headers["Docker-Content-Digest"] == name
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Content-Length"] == "5000"
        assert [answer.content for answer in answers] == [b"", data, data, b""]


def test_pull_through_by_a_handler_fetches_once_for_all_clients(plugin, server, orm):
    from pulp_file.app.models import FileContent, FileDistribution, FileRemote

    with serving_upstream() as upstream:
        upstream.files = {"new.txt": b"new " * 100_000}
        remote = orm._save(FileRemote(name=orm.unique(), url=upstream.url, policy="on_demand"))
        base = orm.distribution()
        FileDistribution.objects.filter(base_path=base).update(remote=remote)
        url = str(plugin.base_url.join(f"files/{base}/new.txt"))
        with ThreadPoolExecutor(10) as clients:
            for got in clients.map(httpx.get, [url] * 10):
                assert got.content == upstream.files["new.txt"], server.said()[-6000:]
        assert plugin.get(f"files/{base}/old.txt").status_code == 404
        assert upstream.gets["new.txt"] == 1
        digest = hashlib.sha256(upstream.files["new.txt"]).hexdigest()
        saved = FileContent.objects.filter(relative_path="new.txt", digest=digest)
        wait_until(saved.exists)  # saved after the response
        again = plugin.get(f"files/{base}/new.txt")
        assert again.content == upstream.files["new.txt"]
        assert again.headers["ETag"] == f'"{digest}"'
        assert upstream.gets["new.txt"] == 1
        saved.delete()


def test_aiohttp_application_that_fails_to_start_leaves_content_served(instance, tmp_path, orm):
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    with serving(instance, **installed(tmp_path / "no such folder")) as server:
        assert "The aiohttp application of the plugins cannot be started" in server.said()
        assert httpx.get(f"{server.content_url}{base}/a.txt").content == b"a"
        response = httpx.get(f"{server.url}/pulp/bridged/hello/x")
        assert response.status_code == 404
        reported = status(server)["bridged"]
        assert reported["prefixes"] == []
        assert "cannot be started: FileNotFoundError" in reported["problem"]
        assert "no such folder" not in reported["problem"]


def test_plugin_that_fails_to_import_leaves_content_and_other_plugins_served(
    instance, tmp_path, content, orm
):
    package = tmp_path / "pulp_broken"
    (package / "app").mkdir(parents=True)
    info = tmp_path / "pulp_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pulp-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pulpcore.plugin]\npulp_broken = pulp_broken:config\n")
    (package / "__init__.py").write_text("config = 'pulp_broken.app.BrokenAppConfig'\n")
    (package / "app" / "__init__.py").write_text(
        "from pulpcore.plugin import PulpPluginAppConfig\n"
        "class BrokenAppConfig(PulpPluginAppConfig):\n"
        "    name, label, version = 'pulp_broken.app', 'broken', '1.0'\n"
        "    python_package_name, domain_compatible = 'pulp-broken', True\n"
    )
    (package / "app" / "content.py").write_text("import no_such_module\n")
    environ = installed(tmp_path)
    environ["PYTHONPATH"] += f":{tmp_path}"
    base = orm.distribution(publication=orm.publication({"a.txt": b"a"}))
    with serving(instance, **environ) as server:
        assert "The plugin pulp_broken.app is not served in full" in server.said()
        assert httpx.get(f"{server.content_url}{base}/a.txt").content == b"a"
        response = httpx.get(f"{server.url}/pulp/bridged/hello/x")
        assert response.json()["name"] == "x"
        problem = status(server)["broken"]["problem"]
        assert problem.startswith("pulp_broken.app.content cannot be imported")
        assert "ModuleNotFoundError" in problem
        command = ["pulpcore-manager", "content-star-plugins", "--json"]
        reported = json.loads(instance.run(command, **environ).stdout)
        assert {each["label"]: each for each in reported} == status(server)


def test_bridged_routes_are_in_the_openapi_document(server):
    document = httpx.get(f"{server.content_url}openapi.json").json()
    validate(document)
    paths = document["paths"]
    assert {"get", "put", "delete"} < paths["/pulp/bridged/hello/{name}"].keys()
    assert list(paths["/pulp/bridged/form"]) == ["parameters", "post"]
    assert paths["/pulp/bridged/form"]["post"]["tags"] == ["bridged"]
    (parameter,) = paths["/pulp/content/bridged-api/{name}"]["parameters"]
    assert (parameter["name"], parameter["in"]) == ("name", "path")
    assert "/pulp/bridged-part/{rest}" in paths
    assert "/{anything}/v2/" not in paths, "it is not served, since it overlaps Pulp"
