"""Live APIs of plugins, below base paths and at prefixes of their own, on the real process."""

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

PREFIX = "/pulp/probe/"


@pytest.fixture(scope="module")
def publication(module_pulp: Pulp) -> str:
    return module_pulp.publish(module_pulp.repository({"a.txt": b"of the file"}))


@pytest.fixture(scope="module")
def open_base(module_pulp: Pulp, publication: str) -> str:
    """The base path of a distribution of pulp_file's model, which the tests' plugin serves."""
    return module_pulp.distribute(publication=publication)


@pytest.fixture(scope="module")
def guarded(module_pulp: Pulp, publication: str) -> str:
    """As `open_base`, behind an RBAC guard."""
    guard = module_pulp.create("contentguards/core/rbac/", name=unique("guard"))
    return module_pulp.distribute(publication=publication, content_guard=guard["pulp_href"])


@pytest.fixture(params=["distribution", "prefix"])
def live(request, plugged, open_base) -> Iterator[httpx.Client]:
    """The same routes, below a base path and below a prefix of the plugin's own."""
    roots = {"distribution": f"/pulp/content/{open_base}/live/", "prefix": f"{PREFIX}live/"}
    url = plugged.url + roots[request.param]
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def test_paths_are_relative_to_where_the_routes_are(live):
    told = live.get("where/a/b%20c").json()
    root = live.base_url.path.rstrip("/")
    assert told["rest"] == "a/b c"
    assert told["root"] == root
    assert told["url"] == f"{live.base_url}where/x/y"
    assert told["domain"] == told["current_domain"] == "default"


def test_a_handler_knows_its_distribution(content, open_base):
    told = content.get(f"{open_base}/live/place/x").json()
    assert told == {"path": "live/place/x", "base": open_base}


def test_bodies_are_streamed_both_ways_at_once(live):
    """Each chunk comes back before the next one is sent."""
    url = live.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
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


def test_a_client_that_leaves_while_sending_is_no_error(plugged, live, content, open_base):
    url = live.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        head = f"POST {url.path}echo HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 100\r\n"
        connection.sendall(head.encode() + b"\r\nhalf")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert live.get("where/x").status_code == 200


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"not read")])
def test_a_stream_ends_when_nobody_listens_any_more(live, method, body):
    before = int(live.get("ended").text)
    with live.stream(method, "endless", content=body) as response:
        connection = response.extensions["network_stream"].get_extra_info("socket")
        # A client that closes looks half-closed until its system forgets the connection.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
        pieces = response.iter_raw()  # which ends the connection when nobody has it any more
        assert next(pieces) == b"begun"
    wait_until(lambda: int(live.get("ended").text) > before)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "live/endpoint", 200, None),
        ("HEAD", "live/endpoint", 200, None),
        ("OPTIONS", "live/who", 200, None),
        ("DELETE", "live/echo", 405, {"POST", "PUT"}),
        ("GET", "live/nothing", 404, None),
        ("PUT", "a.txt", 200, None),
        ("GET", "a.txt", 200, None),
        ("DELETE", "a.txt", 405, {"GET", "HEAD", "OPTIONS", "PUT"}),
        ("OPTIONS", "a.txt", 200, {"GET", "HEAD", "OPTIONS", "PUT"}),
        ("POST", "b.txt", 405, {"GET", "HEAD", "OPTIONS"}),
        ("OPTIONS", "b.txt", 200, {"GET", "HEAD", "OPTIONS"}),
        ("POST", "", 405, {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_methods(content, open_base, method, path, status, allow):
    response = content.request(method, f"{open_base}/{path}")
    assert response.status_code == status
    if method == "HEAD":
        assert response.content == b""
    if allow:
        assert set(response.headers["Allow"].split(", ")) == allow


def test_a_route_for_another_method_hides_no_file(content, open_base):
    assert content.get(f"{open_base}/a.txt").content == b"of the file"
    assert content.put(f"{open_base}/a.txt", content=b"echoed").content == b"echoed"


@pytest.mark.parametrize("path", ["", "nothing/"])
def test_methods_where_no_distribution_is(content, path):
    assert content.post(path).status_code == 405
    assert content.options(path).status_code == 200


def test_guards_are_asked_before_routes(content, pulp, guarded):
    for method, path in [
        ("GET", "live/endpoint"),
        ("HEAD", "live/endpoint"),
        ("POST", "live/echo"),
        ("OPTIONS", "live/who"),
        ("DELETE", "live/echo"),
        ("PUT", "a.txt"),
    ]:
        url = f"{guarded}/{path}"
        assert content.request(method, url).status_code == 401, (method, path)
        assert content.request(method, url, auth=("admin", "wrong")).status_code == 403
    assert content.get(f"{guarded}/live/endpoint", auth=pulp.auth).text == "endpoint"
    assert content.post(f"{guarded}/live/echo", content=b"x", auth=pulp.auth).content == b"x"


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
    "/pulp/probe/live/..%2F..%2F..%2Fcontent/{base}/{path}",
    "/pulp/content/{base}/{path};x=1",
    "/pulp/content/{base}/x/..%2F{path}",
    "/pulp/content/{base}/{path}%00",
    "http://elsewhere/pulp/content/{base}/{path}",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_there_is_no_way_round_a_guard(plugged, guarded, pulp, spelling):
    """However a URL is spelled, whoever says nothing is told nothing."""
    url = httpx.URL(plugged.url)
    known = {"Authorization": pulp.auth._auth_header}

    def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(url.host, url.port, timeout=30)
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
        ("GET", "live/endpoint"),
        ("POST", "live/echo"),
        ("OPTIONS", "live/who"),
    ]:
        status, body = ask(method, path, {})
        if method == "OPTIONS" and not body:
            continue  # where no route takes it, the methods are told, which are the same for all
        assert status >= 400, (method, path)
        if ask(method, path, known)[0] == 200:
            assert status == 401, (method, path)


def test_nobody_has_to_say_who_they_are_but_lies_are_refused(live, pulp):
    assert live.get("who").json() == {"user": "", "current": None}
    assert live.get("who", auth=pulp.auth).json() == {"user": "admin", "current": "admin"}
    refused = live.get("who", auth=("admin", "wrong"))
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert live.get("where/x", auth=("admin", "wrong")).status_code == 200, "nobody asked"


def test_a_user_can_be_required(live, pulp):
    refused = live.get("known")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert live.get("known", auth=pulp.auth).text == "admin"


def test_sessions_need_a_token_where_something_may_change(live, admin):
    cookies, token = dict(admin.cookies), admin.cookies["csrftoken"]
    with httpx.Client(base_url=live.base_url, cookies=cookies, trust_env=False) as browser:
        assert browser.get("who").json()["user"] == "admin"
        refused = browser.post("who", data={"csrfmiddlewaretoken": token})
        assert refused.status_code == 403
        assert "CSRF" in refused.text
        assert browser.post("who", headers={"X-CSRFToken": "x" * 32}).status_code == 403
        assert browser.post("who", headers={"X-CSRFToken": token}).json()["user"] == "admin"
        foreign = {"X-CSRFToken": token, "Origin": "https://elsewhere.example"}
        assert browser.post("who", headers=foreign).status_code == 403


def test_blocking_handlers_have_threads_and_connections_of_their_own(plugged, live):
    first, second = live.get("backend").json(), live.get("backend").json()
    assert first["thread"].startswith("plugin-db")
    assert second["thread"].startswith("plugin-db")


def test_a_blocking_handler_gets_another_connection_where_its_own_has_died(plugged, live):
    old = {live.get("backend").json()["pid"] for _ in range(10)}
    code = (
        "from django.db import connection; cursor = connection.cursor();"
        "cursor.execute('SELECT pg_terminate_backend(pid, 60000)"
        f" FROM unnest(ARRAY{sorted(old)}) pid')"
    )
    plugged.run(["pulpcore-manager", "shell", "--command", code])
    new = {live.get("backend").json()["pid"] for _ in range(10)}
    assert not old & new


def test_the_asynchronous_orm_leaves_no_connection_behind(plugged, live):
    for _ in range(3):
        assert live.get("count").text == "0"
    code = (
        "from django.db import connection; cursor = connection.cursor();"
        "cursor.execute(\"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%count%"
        "core_distribution%' AND pid <> pg_backend_pid()\"); print(cursor.fetchone()[0])"
    )
    assert plugged.run(["pulpcore-manager", "shell", "--command", code]).stdout.split()[-1] == "0"


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
def test_errors_of_handlers_are_answered_like_all_others(live, what, status, text):
    correlation_id = uuid.uuid4().hex
    response = live.get(f"boom/{what}", headers={"Correlation-ID": correlation_id})
    assert response.status_code == status
    assert text in response.text
    assert "a secret" not in response.text
    assert response.headers["Correlation-ID"] == correlation_id
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    in_json = live.get(f"boom/{what}", headers={"Accept": "application/json"})
    assert text in in_json.json()["detail"]


def test_answers_are_kept_apart_from_the_api_they_share_an_origin_with(live):
    response = live.get("endpoint")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"].startswith("sandbox")
    assert response.headers["Cache-Control"] == "no-store"
    own = live.get("headers")
    assert own.headers["Content-Security-Policy"] == "default-src 'self'"
    assert own.headers["Cache-Control"] == "max-age=5"
    assert own.headers["X-Content-Type-Options"] == "nosniff"


def test_a_handler_can_answer_with_an_artifact(content, open_base):
    etag = content.head(f"{open_base}/a.txt").headers["ETag"]
    blob = f"{open_base}/live/blobs/{etag.strip(chr(34))}"
    assert content.get(blob, headers={"Range": "bytes=3-"}).content == b"the file"
    assert content.get(blob, headers={"If-None-Match": etag}).status_code == 304
    assert content.get(f"{open_base}/live/blobs/{'0' * 64}").status_code == 404


def test_steps_are_given_the_real_request(content, open_base):
    found = content.get(f"{open_base}/found", headers={"User-Agent": "somebody"})
    assert found.text == "for somebody"
    assert found.headers["Content-Security-Policy"].startswith("sandbox")
    json = content.get(f"{open_base}/a.txt?x=1", headers={"Accept": "application/json"})
    assert json.json() == {"json": "a.txt", "query": "x=1"}
    assert "Accept" in json.headers["Vary"]


def test_a_snippet_is_text_unless_it_says_otherwise(content, open_base):
    assert "<pre>&lt;b&gt;bold&lt;/b&gt;</pre>" in content.get(f"{open_base}/").text


def test_checkpoints_are_served_by_the_plugins_class_for_them(content, pulp):
    repository = pulp.repository({"a.txt": b"kept"})
    pulp.publish(repository, checkpoint=True)
    base = pulp.distribute(repository=repository, checkpoint=True)
    page = content.get(f"{base}/").text
    assert "one directory for each checkpoint" in page
    assert content.get(f"{base}/live/endpoint").text == "endpoint"


def test_websockets_are_closed(plugged, open_base):
    for path in (f"/pulp/content/{open_base}/live/endpoint", f"{PREFIX}live/endpoint"):
        url = plugged.url.replace("http", "ws") + path
        with pytest.raises(websockets.exceptions.InvalidStatus):
            websockets.sync.client.connect(url)


def test_a_prefix_is_the_root_with_or_without_its_slash(plugged):
    for root in (PREFIX, PREFIX.rstrip("/")):
        told = httpx.get(plugged.url + root, trust_env=False).json()
        assert told["root"] == PREFIX.rstrip("/")
    assert httpx.get(f"{plugged.url}{PREFIX}/", trust_env=False).status_code == 404


def test_a_prefix_has_404s_of_its_own(plugged):
    assert httpx.get(f"{plugged.url}{PREFIX}live/nothing", trust_env=False).status_code == 404
    assert httpx.post(f"{plugged.url}{PREFIX}live/endpoint", trust_env=False).status_code == 405


@pytest.fixture(scope="module")
def domains(plugged) -> Iterator[Server]:
    """A process on the same state that serves domains, below a path that a proxy strips."""
    with serving(plugged, PULP_DOMAIN_ENABLED="true") as server:
        yield server


def test_domains_are_part_of_the_root(domains, open_base):
    for root in (f"/pulp/content/default/{open_base}", f"{PREFIX}default"):
        told = httpx.get(f"{domains.url}{root}/live/where/x", trust_env=False).json()
        assert told["rest"] == "x"
        assert told["root"] == f"{root}/live"
        assert told["url"] == f"{domains.url}{root}/live/where/x/y"
        assert told["domain"] == told["current_domain"] == "default"
    for path in (PREFIX, PREFIX.rstrip("/"), f"{PREFIX}/x"):
        unnamed = httpx.get(domains.url + path, trust_env=False)
        assert (unnamed.status_code, "There is no domain ''" in unnamed.text) == (404, True)
    missing = httpx.get(f"{domains.url}{PREFIX}nowhere/live/where/x", trust_env=False)
    assert missing.status_code == 404
    assert "There is no domain" in missing.text
