"""The switch from upstream's content app to ours, with deploy/nginx/switch.conf; rolling upgrades.

Clients open a connection for each request, since nginx closes idle ones when it is reloaded.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from tests.support.instance import Instance, stop, wait_until
from tests.support.listing_parser import parse_listing
from tests.support.load import Ask, SlowDownload, mixed_load
from tests.support.nginx import NGINX, temporary_folder
from tests.support.orm import Orm
from tests.support.pulp import API, Pulp
from tests.support.remote_server import serving_upstream
from tests.support.server import Server, running, serving, serving_theirs
from tests.support.switch import CONTENT, OURS, Front, of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx")]

FILES = {"a.txt": b"0123456789" * 5_000, "dir/b": b"b"}
ENTRIES = {"a.txt", "dir/", "large/"}
LARGE = os.urandom(1 << 20) * 32  # larger than the buffers of nginx and sockets
REMOTE = {f"remote-{number}": b"%d" % number * 5_000 for number in range(24)}


class SlowUpload:
    """An upload through the API, whose second half is sent in `finish`."""

    def __init__(self, pulp: Pulp, origin: str, repository: str, name: str, data: bytes) -> None:
        self._pulp = pulp
        self._more, self._begun = threading.Event(), threading.Event()
        fields = {"relative_path": name, "repository": repository}
        request = pulp.http.build_request(
            "POST", f"{origin}{API}content/file/files/", data=fields, files={"file": (name, data)}
        )
        body = request.read()

        def halves() -> Iterator[bytes]:
            yield body[: len(body) // 2]
            self._begun.set()
            self._more.wait()
            yield body[len(body) // 2 :]

        self._request = pulp.http.build_request(
            "POST", request.url, headers=request.headers, content=halves()
        )
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        self._begun.wait()

    def _send(self) -> None:
        try:
            self._response = self._pulp.http.send(self._request)
        finally:
            self._begun.set()

    def finish(self) -> None:
        """Send the rest, and wait until the file is in the repository."""
        self._more.set()
        self._thread.join()
        assert self._response is not None
        self._pulp.task(self._response)


@dataclass
class Site:
    """Distributions of saved, on-demand and uploaded files."""

    pulp: Pulp
    files: str
    far: str
    uploads: str
    uploaded: str

    def asks(self, origin: str) -> list[Ask]:
        """Return requests for files, ranges, listings and on-demand files."""
        root, large = f"{origin}{CONTENT}", FILES["a.txt"]
        part = (206, large[5:40_001])
        near = [
            Ask(f"{root}{self.files}/a.txt", lambda status, body: (status, body) == (200, large)),
            Ask(
                f"{root}{self.files}/a.txt",
                lambda status, body: (status, body) == part,
                {"Range": "bytes=5-40000"},
            ),
            Ask(
                f"{root}{self.files}/a.txt",
                lambda status, body: (status, body) in (part, (200, large)),
                # A validator of the one app means another file to the other, which sends all of it.
                {"Range": "bytes=5-40000", "If-Range": '"of-another-process"'},
            ),
            Ask(
                f"{root}{self.files}/",
                lambda status, body: set(parse_listing(body.decode())) == ENTRIES,
            ),
            Ask(f"{root}{self.files}/dir", lambda status, body: status == 301),
            Ask(f"{root}{self.files}/nope", lambda status, body: status == 404),
        ]
        far = [
            Ask(f"{root}{self.far}/{name}", lambda status, body, data=data: body == data)  # type: ignore[misc]
            for name, data in REMOTE.items()
        ]
        return [ask for each in far for ask in (*near, each)]

    def upload(self, origin: str, name: str) -> SlowUpload:
        """Begin an upload."""
        return SlowUpload(self.pulp, origin, self.uploads, name, name.encode() * 50_000)

    def expect_uploaded(self, origin: str, name: str) -> None:
        """Request an uploaded file as often as each server is certain to be asked."""
        for _ in range(4):
            response = httpx.get(f"{origin}{CONTENT}{self.uploaded}/{name}")
            assert (response.status_code, response.content) == (200, name.encode() * 50_000)


@pytest.fixture(scope="module")
def site(instance: Instance, module_orm: Orm) -> Iterator[Site]:
    pulp = instance.pulp()
    with serving_upstream() as server:
        server.files = dict(REMOTE)
        server.files["PULP_MANIFEST"] = server.manifest(*REMOTE)
        url = f"{server.url}PULP_MANIFEST"
        remote = pulp.create("remotes/file/file/", name=Orm.unique(), url=url, policy="on_demand")
        mirror, uploads = (pulp.repository(autopublish=True) for _ in range(2))
        pulp.task(pulp.http.post(f"{mirror}sync/", json={"remote": remote["pulp_href"]}))
        yield Site(
            pulp,
            files=module_orm.distribution(
                publication=module_orm.publication({**FILES, "large/large": LARGE})
            ),
            far=pulp.distribute(repository=mirror),
            uploads=uploads,
            uploaded=pulp.distribute(repository=uploads),
        )
        pulp.cleanup()


def test_switch_by_weights_and_back_without_failed_requests(instance: Instance, site: Site) -> None:
    """Weights 0, 10, 50 and 100 %, the old service stopped, started again, and all the way back."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        old = stack.enter_context(serving_theirs(instance))
        new = stack.enter_context(serving(instance, *OURS))
        addresses = {"127.0.0.1:24816": old.url, "127.0.0.1:24818": new.url}
        front = Front(folder, instance.url, addresses)
        origin = stack.enter_context(front.running("weight=1", "down")).url
        clients = stack.enter_context(mixed_load(site.asks(origin)))

        def step(weights: tuple[str, str], *serving: Server, upload: str = "") -> None:
            """Shift during a download and an upload, and look which servers answer."""
            sending = site.upload(origin, upload) if upload else None
            download = SlowDownload(f"{origin}{CONTENT}{site.files}/large/large")
            begin_shift = threading.Thread(target=front.shift, args=weights)
            begin_shift.start()  # ends after the former workers, and so after the download
            clients.wait_for(16)
            assert download.finish() == LARGE
            if sending:
                sending.finish()
            begin_shift.join()
            clients.wait_for(48)
            if sending:
                site.expect_uploaded(origin, upload)
            assert clients.failed == []
            assert front.served() == of(*serving)

        clients.wait_for(32)
        assert front.served() == of(old)
        step(("weight=9", "weight=1"), old, new)
        step(("weight=1", "weight=1"), old, new, upload="half")
        step(("down", "weight=1"), new)
        stop(old.process)
        clients.wait_for(32)

        again = stack.enter_context(serving_theirs(instance))
        front.servers["127.0.0.1:24816"] = again.url
        step(("weight=1", "weight=1"), again, new, upload="back")
        step(("weight=1", "down"), again)
        stop(new.process)
        clients.wait_for(32)
        clients.stop()  # before the servers
    assert clients.failed == []


def test_rolling_upgrade_of_two_processes_without_failed_requests(
    instance: Instance, site: Site
) -> None:
    """Each process is stopped with a download under way, and another started at its port."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        servers = [stack.enter_context(serving(instance, *OURS)) for _ in range(2)]
        names = ("127.0.0.1:24816", "127.0.0.1:24818")
        front = Front(folder, instance.url, dict(zip(names, (s.url for s in servers), strict=True)))
        origin = stack.enter_context(front.running("weight=1", "weight=1")).url
        clients = stack.enter_context(mixed_load(site.asks(origin)))
        for number, server in enumerate(servers):
            downloads = [
                SlowDownload(f"{origin}{CONTENT}{site.files}/large/large") for _ in servers
            ]
            server.process.terminate()
            wait_until(lambda server=server: "Shutting down" in server.said())
            clients.wait_for(64)
            assert [download.finish() == LARGE for download in downloads] == [True, True]
            server.process.wait(300)
            port = server.url.rpartition(":")[2]
            command = ["uvicorn", "pulpcore.routing:application", "--port", port, *OURS]
            stack.enter_context(running(instance, command, server.url))
            name = f"upgraded-{number}"
            site.upload(origin, name).finish()
            site.expect_uploaded(origin, name)
            (folder / "served.log").write_text("")
            wait_until(lambda: front.served() == of(*servers), explain=lambda: str(clients.failed))
            assert clients.failed == []
        clients.stop()  # before the servers
    assert clients.failed == []
