"""A legacy plugin with hooks and routes for aiohttp in the serving modes `proxy` and `refuse`."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.bridged import FOLDER, installed
from tests.support.instance import Instance
from tests.support.pulp import Pulp, unique
from tests.support.server import Server, serving

KEY = {"X-Key": "b3Blbg=="}


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    """The directory in which the plugin would record events if it were started in our process."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def ours(instance: Instance, theirs: Server, notes: Path) -> Iterator[Server]:
    chosen = {
        "PULP_CONTENT_STAR_LEGACY_PLUGINS": "proxy",
        "PULP_CONTENT_STAR_LEGACY_URL": f"{theirs.url}/",
    }
    with serving(instance, **installed(notes, **chosen)) as server:
        yield server


@pytest.fixture(scope="module")
def plugin(ours: Server) -> Iterator[httpx.Client]:
    url = f"{ours.url}/pulp/bridged/"
    with httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def base(instance: Instance) -> Iterator[str]:
    """The base path of a distribution with the plugin's hooks, behind a guard."""
    pulp: Pulp = instance.pulp()
    guard = pulp.create(
        "contentguards/core/header/", name=unique("guard"), header_name="x-key", header_value="open"
    )
    repository = pulp.repository({"a.txt": b"0123456789"})
    pulp.publish(repository)
    base = unique("bridged")
    pulp.create(
        "distributions/file/file/",
        name=base,
        base_path=base,
        repository=repository,
        content_guard=guard["pulp_href"],
    )
    yield base
    pulp.cleanup()


def report_of(server: Server) -> dict[str, dict]:
    """Return the server's report about its plugins, by label."""
    as_json = {"Accept": "application/json"}
    status = httpx.get(f"{server.content_url}readyz", headers=as_json).json()
    return {each["label"]: each for each in status["plugins"]}


def modes_of(server: Server) -> dict[str, str]:
    return {label: each["served"] for label, each in report_of(server).items()}


def test_proxy_mode_is_reported_and_runs_no_plugin_code(ours, notes):
    modes = modes_of(ours)
    assert (modes["bridged"], modes["file"], modes["core"]) == ("proxied", "proxied", "native")
    assert "which is deprecated" not in ours.said(), "nothing is bridged"
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH", "DELETE"])
def test_proxy_mode_forwards_every_method_to_routes(plugin, ours, method):
    body = "body é".encode() if method != "GET" else b""
    response = plugin.request(
        method,
        "hello/a%20b?q=%C3%A9&q=2",
        content=body,
        headers={"Cookie": "c=1", "Content-Type": "text/plain", "X-Header": "x"},
    )
    seen = response.json()
    assert (seen["method"], seen["name"], seen["body"]) == (method, "a b", body.decode())
    assert seen["raw_path"] == "/pulp/bridged/hello/a%20b?q=%C3%A9&q=2"
    assert (seen["cookies"], seen["header"]) == ({"c": "1"}, "x")
    assert seen["url"].startswith(f"{ours.url}/"), "with the Host of the client"
    assert seen["app"] == "started", "in upstream's process"
    assert response.headers["Set-Cookie"].startswith("seen=1")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"].startswith("sandbox")


def test_proxy_mode_forwards_authentication_redirects_errors_and_uploads(plugin, instance):
    auth = (instance.username, instance.password)
    assert plugin.get("hello/x", auth=auth).json()["user"] == instance.username
    assert plugin.get("found").headers["Location"] == "/elsewhere"
    assert plugin.get("no/such/route").status_code == 404
    refused = plugin.delete("form")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    data, files = {"field": "value"}, {"file": ("name.bin", b"x" * 300_000)}
    assert plugin.post("form", data=data, files=files).json() == ["value", "name.bin", 300_000]
    with pytest.raises(httpx.RemoteProtocolError):
        plugin.get("cut")


def test_proxy_mode_streams_request_and_response_bodies_concurrently(ours):
    url = httpx.URL(ours.url)
    with socket.create_connection((url.host, url.port), timeout=300) as connection:
        connection.sendall(
            b"PUT /pulp/bridged/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        received = b""
        for word in (b"first", b"second", b"third"):
            connection.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            while word not in received:
                received += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 ")


def test_proxy_mode_serves_routes_below_the_content_prefix(ours):
    with httpx.Client(base_url=ours.content_url) as content:
        assert content.get("bridged-api/x").json()["app"] == "started"
        assert content.post("bridged-api/x").status_code == 405
        assert content.get("bridged-api/x/y").status_code == 404


def test_proxy_mode_asks_the_guard_before_forwarding(ours, base):
    with httpx.Client(base_url=f"{ours.content_url}{base}/") as content:
        assert content.get("json").status_code == 403
        assert content.get("json", headers=KEY).json() == {"name": "x", "numbers": [1, 2]}
        assert "a.txt" in content.get("", headers=KEY).text
        assert content.get("nope", headers=KEY).status_code == 404
        page = content.get("page", headers=KEY)
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in page.headers["Content-Security-Policy"], "the origin is that of the API"
        part = content.get("a.txt", headers={**KEY, "Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")
        assert content.head("a.txt", headers=KEY).headers["Content-Length"] == "10"
        assert content.post("a.txt", headers=KEY).status_code == 405


def test_proxy_mode_of_a_plugin_that_fails_to_import_forwards_distributions_only(
    instance, theirs, tmp_path, base
):
    """As with a plugin whose dependency is missing in our environment: its routes are unknown."""
    shutil.copytree(FOLDER, tmp_path / "site", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "site/pulp_bridged/app/content.py").write_text("import no_such_module\n")
    proxy = {
        "PULP_CONTENT_STAR_LEGACY_PLUGINS": "proxy",
        "PULP_CONTENT_STAR_LEGACY_URL": theirs.url,
    }
    environ = installed(tmp_path, **proxy) | {"PYTHONPATH": str(tmp_path / "site")}
    with serving(instance, **environ) as server:
        url = f"{server.content_url}{base}/json"
        assert httpx.get(url, headers=KEY).json() == {
            "name": "x",
            "numbers": [1, 2],
        }
        url = f"{server.url}/pulp/bridged/hello/x"
        assert httpx.get(url).status_code == 404
        unknown = "its routes are unknown, and none is served or proxied"
        assert unknown in server.said()
        assert unknown in report_of(server)["bridged"]["problem"]
        assert report_of(server)["bridged"]["served"] == "proxied"
    printed = instance.run(["pulpcore-manager", "content-star-plugins"], **environ).stdout
    (line,) = (line for line in printed.splitlines() if line.startswith("bridged "))
    assert unknown in line


def test_refuse_mode_returns_501_after_the_guard(instance, tmp_path, base):
    refuse = {"PULP_CONTENT_STAR_LEGACY_PLUGINS": "refuse"}
    with serving(instance, **installed(tmp_path, **refuse)) as server:
        assert modes_of(server)["bridged"] == "refused"
        for method in ("GET", "POST", "OPTIONS"):
            url = f"{server.url}/pulp/bridged/hello/x"
            refused = httpx.request(method, url)
            assert refused.status_code == 501, method
        assert "CONTENT_STAR_LEGACY_PLUGINS is 'refuse'" in refused.text
        url = f"{server.content_url}bridged-api/x"
        assert httpx.get(url).status_code == 501
        url = f"{server.content_url}{base}/json"
        assert httpx.get(url).status_code == 403, "by the guard"
        assert httpx.get(url, headers=KEY).status_code == 501
        assert list(tmp_path.iterdir()) == [], "the plugin is not started"


def test_start_fails_with_an_invalid_legacy_url(instance, tmp_path):
    url = "http://admin:hunter2@127.0.0.1/pulp/content/"
    chosen = {"PULP_CONTENT_STAR_LEGACY_PLUGINS": "proxy", "PULP_CONTENT_STAR_LEGACY_URL": url}
    command = ["uvicorn", "pulpcore.routing:application", "--port", "0"]
    result = instance.run(command, check=False, **installed(tmp_path, **chosen))
    assert result.returncode != 0
    assert "CONTENT_STAR_LEGACY_URL" in result.stderr.strip().splitlines()[-1]
    assert "hunter2" not in result.stdout + result.stderr
