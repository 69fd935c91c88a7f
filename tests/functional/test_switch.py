"""The switch from upstream's content app to ours behind nginx, and back, under load."""

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from tests.functional.test_behind_proxy import GROUP, NGINX, USER, _listens, replace_all
from tests.support.instance import Instance, stop, wait_until
from tests.support.listing_parser import parse_listing
from tests.support.orm import Orm
from tests.support.pulp import Pulp
from tests.support.remote_server import serving_upstream
from tests.support.server import Server, free_port, serving, serving_theirs

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here")

DOCUMENT = Path(__file__).parents[2] / "docs" / "migrating.md"
CONTENT = "/pulp/content/"
DATA = b"0123456789" * 10_000
FAR = b"9876543210" * 1000
Check = Callable[[httpx.Response], bool]


@dataclass
class Clients:
    """Clients that request the same over and over, and note each wrong response."""

    url: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, count: int, path: str, is_right: Check, **headers: str) -> None:
        """Start so many clients of one path."""
        arguments = (path, is_right, headers)
        threads = [threading.Thread(target=self._run, args=arguments) for _ in range(count)]
        self._threads += threads
        for thread in threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until so many more requests are answered."""
        enough = self.answered + count
        wait_until(lambda: self.answered >= enough or self.failed, 600, lambda: str(self.failed))

    def stop(self) -> None:
        """Let each client finish its request."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, path: str, is_right: Check, headers: dict[str, str]) -> None:
        while not self._stopped.is_set():
            failure = ""
            try:
                response = httpx.get(self.url + path, headers=headers, trust_env=False, timeout=300)
                if not is_right(response):
                    failure = f"{path}: {response.status_code} with {len(response.content)} bytes"
            except httpx.HTTPError as error:
                failure = f"{path}: {error!r}"
            with self._lock:
                self.answered += 1
                if failure:
                    self.failed.append(failure)


@dataclass
class Front:
    """nginx with the upstream of docs/migrating.md, whose weights can be changed."""

    folder: Path
    port: int
    old: str
    new: str
    process: subprocess.Popen[bytes] | None = None
    reloads: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{CONTENT}"

    def configure(self, old: str, new: str) -> None:
        """Write the configuration, with the parameters of the two servers."""
        section = DOCUMENT.read_text().split("\n## Switching, and going back\n")[1]
        (sample,) = re.findall(r"(?m)^ {4}upstream(?:.*\n|\n)+?(?=^\S)", section)
        values = {
            "127.0.0.1:24816 weight=9": f"{self.old} {old}",
            "127.0.0.1:24818 weight=1": f"{self.new} {new}",
            "listen 8080": f"listen 127.0.0.1:{self.port}",
        }
        (self.folder / "nginx.conf").write_text(f"""
            daemon off;
            worker_processes 1;
            {f"user {USER.pw_name} {GROUP.gr_name};" if os.geteuid() == 0 else ""}
            pid {self.folder}/pid;
            error_log {self.folder}/error.log notice;
            events {{ }}
            http {{
                log_format where $upstream_addr;
                access_log {self.folder}/where.log where;
                client_body_temp_path {self.folder}/body;
                proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/fastcgi;
                uwsgi_temp_path {self.folder}/uwsgi;
                scgi_temp_path {self.folder}/scgi;
                {replace_all(dedent(sample), values)}
            }}
        """)

    def shift(self, old: str, new: str) -> None:
        """Reload nginx with other weights, and wait until no worker has the former ones."""
        assert self.process is not None
        workers = set(self._workers())
        self.configure(old, new)
        self.process.send_signal(1)
        wait_until(lambda: self._workers() and not workers & set(self._workers()))
        (self.folder / "where.log").write_text("")

    def _workers(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return list(map(int, children.read_text().split()))

    def served(self) -> set[str]:
        """Return the servers that have answered since the weights were changed."""
        return set((self.folder / "where.log").read_text().split())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_switch_by_weights_and_rollback_fail_no_request(
    instance: Instance, pulp: Pulp, orm: Orm, stack: ExitStack
) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.chmod(0o777)
    remote_server = stack.enter_context(serving_upstream())
    remote_server.files = {"far": FAR}
    remote_server.files["PULP_MANIFEST"] = remote_server.manifest("far")
    remote = pulp.create(
        *("remotes/file/file/",),
        name=orm.unique(),
        url=f"{remote_server.url}PULP_MANIFEST",
        policy="streamed",
    )
    mirror = pulp.repository(autopublish=True)
    pulp.task(pulp.http.post(f"{mirror}sync/", json={"remote": remote["pulp_href"]}))
    far = pulp.distribute(repository=mirror)
    files = orm.distribution(publication=orm.publication({"a.txt": DATA, "dir/b": b"b"}))
    uploads = pulp.repository(autopublish=True)
    uploaded = pulp.distribute(repository=uploads)

    old: Server = stack.enter_context(serving_theirs(instance))
    new: Server = stack.enter_context(serving(instance))
    front = Front(folder, free_port(), *(each.url.removeprefix("http://") for each in (old, new)))
    front.configure("weight=1", "down")
    front.process = subprocess.Popen(
        [str(NGINX), "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    )
    stack.callback(stop, front.process)
    wait_until(lambda: _listens(front.process, folder / "error.log", front.port), 60)

    clients = Clients(front.url)
    stack.callback(clients.stop)
    part = (206, DATA[5:50_001])
    clients.start(6, f"{files}/a.txt", lambda r: r.content == DATA)
    is_part: Check = lambda r: (r.status_code, r.content) == part  # noqa: E731
    clients.start(4, f"{files}/a.txt", is_part, Range="bytes=5-50000")
    clients.start(4, f"{files}/", lambda r: set(parse_listing(r.text)) == {"a.txt", "dir/"})
    clients.start(2, f"{far}/far", lambda r: r.content == FAR)

    def upload_and_get(name: str) -> None:
        """What is uploaded is served at once, whichever app gets the request."""
        data = name.encode()
        pulp.upload(uploads, name, data)
        for _ in range(4):
            response = httpx.get(f"{front.url}{uploaded}/{name}", trust_env=False, timeout=300)
            assert (response.status_code, response.content) == (200, data)

    here = {"old": front.old, "new": front.new}
    steps = [
        ("weight=9", "weight=1", {"old", "new"}),
        ("weight=1", "weight=1", {"old", "new"}),
        ("down", "weight=1", {"new"}),
    ]
    clients.wait_for(32)
    upload_and_get("before")
    for number, (of_old, of_new, expected) in enumerate(steps):
        front.shift(of_old, of_new)
        clients.wait_for(64)
        upload_and_get(f"step-{number}")
        assert front.served() == {here[name] for name in expected}
    stop(old.process)
    clients.wait_for(64)
    assert clients.failed == []

    # Back, with an old service that was started again.
    again = stack.enter_context(serving_theirs(instance))
    front.old = again.url.removeprefix("http://")
    front.shift("weight=1", "weight=1")
    clients.wait_for(64)
    front.shift("weight=1", "down")
    clients.wait_for(32)
    stop(new.process)
    clients.wait_for(32)
    upload_and_get("after")
    assert front.served() == {front.old}
    assert clients.failed == []
