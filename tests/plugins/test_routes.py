"""Plugin routes, below base paths and below prefixes of plugins."""

import http.client
import socket
import uuid
from collections.abc import Iterator

import httpx
import pytest
import websockets.exceptions
import websockets.sync.client

from tests.support.instance import wait_until
from tests.support.pulp import Pulp, unique
from tests.support.server import Server, serving

pytestmark = pytest.mark.slow

PREFIX = "/pulp/probe/"


@pytest.fixture(scope="module")
def publication(module_pulp: Pulp) -> str:
    return module_pulp.publish(module_pulp.repository({"a.txt": b"of the file"}))


@pytest.fixture(scope="module")
def open_base(module_pulp: Pulp, publication: str) -> str:
    """The base path of a distribution of pulp_file's model, served by the tests' plugin."""
    return module_pulp.distribute(publication=publication)


@pytest.fixture(scope="module")
def guarded(module_pulp: Pulp, publication: str) -> str:
    """As `open_base`, behind an RBAC guard."""
    guard = module_pulp.create("contentguards/core/rbac/", name=unique("guard"))
    return module_pulp.distribute(publication=publication, content_guard=guard["pulp_href"])


@pytest.fixture(params=["distribution", "prefix"])
def routes(request, plugged, open_base) -> Iterator[httpx.Client]:
    """A client of the same routes, below a base path and below a prefix of the plugin."""
    roots = {"distribution": f"/pulp/content/{open_base}/api/", "prefix": f"{PREFIX}api/"}
    url = plugged.url + roots[request.param]
    with httpx.Client(base_url=url) as client:
        yield client


def test_route_paths_are_relative_to_the_mount(routes):
    result = routes.get("where/a/b%20c").json()
    root = routes.base_url.path.rstrip("/")
    assert result["rest"] == "a/b c"
    assert result["root"] == root
    assert result["url"] == f"{routes.base_url}where/x/y"
    assert result["domain"] == result["current_domain"] == "default"


def test_route_handler_has_the_resolved_path(content, open_base):
    result = content.get(f"{open_base}/api/resolved/x").json()
    assert result == {"path": "api/resolved/x", "base": open_base}


def test_route_streams_request_and_response_bodies_concurrently(routes):
    """Each chunk is received before the next one is sent."""
    url = routes.base_url
    with socket.create_connection((url.host, url.port), timeout=300) as connection:
        head = f"POST {url.path}echo HTTP/1.1\r\nHost: {url.host}\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(head.encode() + b"\r\n")
        received = b""
        for word in (b"first", b"second", b"third"):
            connection.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            while word not in received:
                received += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 ")


def test_route_client_disconnect_within_the_request_body_is_no_error(
    plugged, routes, content, open_base
):
    url = routes.base_url
    with socket.create_connection((url.host, url.port), timeout=300) as connection:
        head = f"POST {url.path}echo HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 100\r\n"
        connection.sendall(head.encode() + b"\r\nhalf")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert routes.get("where/x").status_code == 200


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"not read")])
def test_route_stream_ends_after_client_disconnect(routes, method, body):
    before = int(routes.get("ended").text)
    with routes.stream(method, "endless", content=body) as response:
        connection = response.extensions["network_stream"].get_extra_info("socket")
        # A closed connection looks half-closed until the client's kernel forgets it.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
        pieces = response.iter_raw()  # closes the connection when it is collected
        assert next(pieces) == b"begun"
    wait_until(lambda: int(routes.get("ended").text) > before)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "api/endpoint", 200, None),
        ("HEAD", "api/endpoint", 200, None),
        ("OPTIONS", "api/who", 200, None),
        ("DELETE", "api/echo", 405, {"POST", "PUT"}),
        ("GET", "api/nothing", 404, None),
        ("PUT", "a.txt", 200, None),
        ("GET", "a.txt", 200, None),
        ("DELETE", "a.txt", 405, {"GET", "HEAD", "OPTIONS", "PUT"}),
        ("OPTIONS", "a.txt", 200, {"GET", "HEAD", "OPTIONS", "PUT"}),
        ("POST", "b.txt", 405, {"GET", "HEAD", "OPTIONS"}),
        ("OPTIONS", "b.txt", 200, {"GET", "HEAD", "OPTIONS"}),
        ("POST", "", 405, {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_route_methods_and_allow_header(content, open_base, method, path, status, allow):
    response = content.request(method, f"{open_base}/{path}")
    assert response.status_code == status
    if method == "HEAD":
        assert response.content == b""
    if allow:
        assert set(response.headers["Allow"].split(", ")) == allow


def test_route_for_another_method_hides_no_file(content, open_base):
    assert content.get(f"{open_base}/a.txt").content == b"of the file"
    assert content.put(f"{open_base}/a.txt", content=b"echoed").content == b"echoed"


@pytest.mark.parametrize("path", ["", "nothing/"])
def test_methods_outside_of_distributions(content, path):
    assert content.post(path).status_code == 405
    assert content.options(path).status_code == 200


def test_guard_denies_before_routes(content, pulp, guarded):
    for method, path in [
        ("GET", "api/endpoint"),
        ("HEAD", "api/endpoint"),
        ("POST", "api/echo"),
        ("OPTIONS", "api/who"),
        ("DELETE", "api/echo"),
        ("PUT", "a.txt"),
    ]:
        url = f"{guarded}/{path}"
        assert content.request(method, url).status_code == 401, (method, path)
        assert content.request(method, url, auth=("admin", "wrong")).status_code == 403
    assert content.get(f"{guarded}/api/endpoint", auth=pulp.auth).text == "endpoint"
    assert content.post(f"{guarded}/api/echo", content=b"x", auth=pulp.auth).content == b"x"


SPELLINGS = [
    "/pulp/content/{base}/{path}",
    "/pulp/content//{base}/{path}",
    "/pulp/content/{base}//{path}",
    "/pulp/content/{base}/{path}/",
    "/pulp/content/{base}%2F{path}",
    "/pulp/content/%2F{base}/{path}",
    "/pulp%2Fcontent/{base}/{path}",
    "/pulp/content%2f{base}%2f{path}",
    "/%70ulp/content/{base}/{path}",
    "//pulp/content/{base}/{path}",
    "/pulp/content/./{base}/{path}",
    "/pulp/content/x/../{base}/{path}",
    "/pulp/probe/../content/{base}/{path}",
    "/pulp/probe/api/..%2F..%2F..%2Fcontent/{base}/{path}",
    "/pulp/content/{base}/{path};x=1",
    "/pulp/content/{base}/x/..%2F{path}",
    "/pulp/content/{base}/{path}%00",
    "http://elsewhere/pulp/content/{base}/{path}",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_guard_denies_in_all_spellings_of_the_path(plugged, guarded, pulp, spelling):
    """Without credentials, no spelling that reaches a guarded route returns anything."""
    url = httpx.URL(plugged.url)
    credentials = {"Authorization": pulp.auth._auth_header}

    def send(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(url.host, url.port, timeout=300)
        target = spelling.format(base=guarded, path=path)
        connection.request(method, target, b"echo" if method in ("POST", "PUT") else None, headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    for method, path in [
        ("GET", "a.txt"),
        ("HEAD", "a.txt"),
        ("PUT", "a.txt"),
        ("GET", "api/endpoint"),
        ("POST", "api/echo"),
        ("OPTIONS", "api/who"),
    ]:
        status, body = send(method, path, {})
        if method == "OPTIONS" and not body:
            continue  # not a route: the response has only the allowed methods, the same for all
        assert status >= 400, (method, path)
        if send(method, path, credentials)[0] == 200:
            assert status == 401, (method, path)


def test_user_of_returns_anonymous_and_refuses_wrong_credentials(routes, pulp):
    assert routes.get("who").json() == {"user": "", "current": None}
    assert routes.get("who", auth=pulp.auth).json() == {"user": "admin", "current": "admin"}
    unreadable = {"Content-Type": "text/plain; charset*=no-such-encoding'x'%ff"}
    assert routes.get("who", headers=unreadable).status_code == 400
    assert routes.get("who", headers=unreadable, auth=pulp.auth).status_code == 400
    refused = routes.get("who", auth=("admin", "wrong"))
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert routes.get("where/x", auth=("admin", "wrong")).status_code == 200, (
        "user_of is not called"
    )


def test_require_user_returns_401_without_credentials(routes, pulp):
    refused = routes.get("known")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert routes.get("known", auth=pulp.auth).text == "admin"


def test_user_of_needs_a_csrf_token_for_sessions_and_unsafe_methods(routes, admin):
    cookies, token = dict(admin.cookies), admin.cookies["csrftoken"]
    with httpx.Client(base_url=routes.base_url, cookies=cookies) as browser:
        assert browser.get("who").json()["user"] == "admin"
        refused = browser.post("who", data={"csrfmiddlewaretoken": token})
        assert refused.status_code == 403
        assert "CSRF" in refused.text
        assert browser.post("who", headers={"X-CSRFToken": "x" * 32}).status_code == 403
        assert browser.post("who", headers={"X-CSRFToken": token}).json()["user"] == "admin"
        foreign = {"X-CSRFToken": token, "Origin": "https://elsewhere.example"}
        assert browser.post("who", headers=foreign).status_code == 403


def test_blocking_route_runs_in_the_database_executor_of_plugins(plugged, routes):
    first, second = routes.get("backend").json(), routes.get("backend").json()
    assert first["thread"].startswith("plugin-db")
    assert second["thread"].startswith("plugin-db")


def test_blocking_route_gets_a_new_database_connection_after_loss(plugged, routes):
    old = {routes.get("backend").json()["pid"] for _ in range(10)}
    code = (
        "from django.db import connection; cursor = connection.cursor();"
        "cursor.execute('SELECT pg_terminate_backend(pid, 60000)"
        f" FROM unnest(ARRAY{sorted(old)}) pid')"
    )
    plugged.run(["pulpcore-manager", "shell", "--command", code])
    new = {routes.get("backend").json()["pid"] for _ in range(10)}
    assert not old & new


def test_asynchronous_orm_runs_in_the_threads_of_plugin_routes(routes):
    for _ in range(3):
        assert routes.get("count").json() == {"count": 0, "thread": "plugin-db"}


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [
        ("value", 500, "correlation id"),
        ("gone", 404, "Not found"),
        ("http404", 404, "not here"),
        ("teapot", 418, "short and stout"),
        ("denied", 403, "not you"),
    ],
)
def test_route_errors_are_rendered_as_all_others(routes, what, status, text):
    correlation_id = uuid.uuid4().hex
    response = routes.get(f"boom/{what}", headers={"Correlation-ID": correlation_id})
    assert response.status_code == status
    assert text in response.text
    assert "a secret" not in response.text
    assert response.headers["Correlation-ID"] == correlation_id
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    in_json = routes.get(f"boom/{what}", headers={"Accept": "application/json"})
    assert text in in_json.json()["detail"]


def test_route_responses_are_sandboxed_and_not_cached_unless_they_say_so(routes):
    response = routes.get("endpoint")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"].startswith("sandbox")
    assert response.headers["Cache-Control"] == "no-store"
    own = routes.get("headers")
    assert own.headers["Content-Security-Policy"] == "default-src 'self'"
    assert own.headers["Cache-Control"] == "max-age=5"
    assert own.headers["X-Content-Type-Options"] == "nosniff"


def test_route_may_return_an_artifact_with_range_and_conditions(content, open_base):
    etag = content.head(f"{open_base}/a.txt").headers["ETag"]
    blob = f"{open_base}/api/blobs/{etag.strip(chr(34))}"
    assert content.get(blob, headers={"Range": "bytes=3-"}).content == b"the file"
    assert content.get(blob, headers={"If-None-Match": etag}).status_code == 304
    assert content.get(f"{open_base}/api/blobs/{'0' * 64}").status_code == 404


def test_find_content_and_json_for_have_the_request(content, open_base):
    found = content.get(f"{open_base}/found", headers={"User-Agent": "somebody"})
    assert found.text == "for somebody"
    assert found.headers["Content-Security-Policy"].startswith("sandbox")
    json = content.get(f"{open_base}/a.txt?x=1", headers={"Accept": "application/json"})
    assert json.json() == {"json": "a.txt", "query": "x=1"}
    assert "Accept" in json.headers["Vary"]


def test_usage_is_escaped_unless_it_is_markup(content, open_base):
    assert "<pre>&lt;b&gt;bold&lt;/b&gt;</pre>" in content.get(f"{open_base}/").text


def test_checkpoints_are_served_by_the_checkpoint_class_of_the_plugin(content, pulp):
    repository = pulp.repository({"a.txt": b"kept"})
    pulp.publish(repository, checkpoint=True)
    base = pulp.distribute(repository=repository, checkpoint=True)
    page = content.get(f"{base}/").text
    assert "one directory for each checkpoint" in page
    assert content.get(f"{base}/api/endpoint").text == "endpoint"


def test_websocket_connections_are_refused(plugged, open_base):
    for path in (f"/pulp/content/{open_base}/api/endpoint", f"{PREFIX}api/endpoint"):
        url = plugged.url.replace("http", "ws") + path
        with pytest.raises(websockets.exceptions.InvalidStatus):
            websockets.sync.client.connect(url)


def test_prefix_is_the_root_with_or_without_its_slash(plugged):
    for root in (PREFIX, PREFIX.rstrip("/")):
        result = httpx.get(plugged.url + root).json()
        assert result["root"] == PREFIX.rstrip("/")
    assert httpx.get(f"{plugged.url}{PREFIX}/").status_code == 404


def test_prefix_returns_404_and_405_for_its_paths(plugged):
    assert httpx.get(f"{plugged.url}{PREFIX}api/nothing").status_code == 404
    assert httpx.post(f"{plugged.url}{PREFIX}api/endpoint").status_code == 405


@pytest.fixture(scope="module")
def domains(plugged) -> Iterator[Server]:
    """A server on the same state with domains."""
    with serving(plugged, PULP_DOMAIN_ENABLED="true") as server:
        yield server


def test_domain_is_part_of_the_root_path(domains, open_base):
    for root in (f"/pulp/content/default/{open_base}", f"{PREFIX}default"):
        result = httpx.get(f"{domains.url}{root}/api/where/x").json()
        assert result["rest"] == "x"
        assert result["root"] == f"{root}/api"
        assert result["url"] == f"{domains.url}{root}/api/where/x/y"
        assert result["domain"] == result["current_domain"] == "default"
    for path in (PREFIX, PREFIX.rstrip("/"), f"{PREFIX}/x"):
        unnamed = httpx.get(domains.url + path)
        assert (unnamed.status_code, "There is no domain ''" in unnamed.text) == (404, True)
    missing = httpx.get(f"{domains.url}{PREFIX}nowhere/api/where/x")
    assert missing.status_code == 404
    assert "There is no domain" in missing.text
