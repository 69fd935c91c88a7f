"""An upgrade of pulpcore under load, with processes of both versions on one database.

`make test-upgrade` gives it an environment with the oldest supported pulpcore.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.instance import Instance, stop, wait_until
from tests.support.listing_parser import parse_listing
from tests.support.load import Ask, SlowDownload, mixed_load
from tests.support.nginx import NGINX, temporary_folder
from tests.support.pulp import Pulp
from tests.support.server import serving
from tests.support.switch import CONTENT, OURS, Front, of

OLD_PYTHON = os.environ.get("PULP_STAR_OLD_PYTHON", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not OLD_PYTHON or NGINX is None,
        reason="needs nginx, and the interpreter of an environment with an older pulpcore in "
        "PULP_STAR_OLD_PYTHON (make test-upgrade)",
    ),
]

FILES = {f"dir/{number}.txt": b"%d" % number * 20_000 for number in range(12)}
LARGE = os.urandom(1 << 20) * 32  # larger than the buffers of nginx and sockets


class OldInstance(Instance):
    """A Pulp of the older pulpcore, with its API and a worker."""

    python = str(Path(OLD_PYTHON).absolute())


@pytest.fixture(scope="module")
def old() -> Iterator[OldInstance]:
    instance = OldInstance.temporary()
    try:
        yield instance.start()  # type: ignore[misc]
        assert instance.stop() == 0, instance.said()
    finally:
        instance.remove()


@pytest.fixture
def new(old: OldInstance) -> Iterator[Instance]:
    """The same state, for processes of the newer pulpcore."""
    instance = Instance(old.home)
    yield instance
    for process in instance.spawned:
        stop(process)


def asks(root: str) -> list[Ask]:
    """Return requests for files, ranges and listings below `root`."""
    names = {name.removeprefix("dir/") for name in FILES}
    asks = [
        Ask(f"{root}dir/", lambda status, body: set(parse_listing(body.decode())) == names),
        Ask(f"{root}dir", lambda status, body: status == 301),
        Ask(f"{root}nope", lambda status, body: status == 404),
    ]
    for name, data in FILES.items():
        asks += [
            Ask(f"{root}{name}", lambda status, body, data=data: (status, body) == (200, data)),  # type: ignore[misc]
            Ask(
                f"{root}{name}",
                lambda status, body, data=data: (status, body) == (206, data[5:1001]),  # type: ignore[misc]
                {"Range": "bytes=5-1000"},
            ),
        ]
    return asks


def migrations_to_apply(instance: Instance) -> int:
    listed = instance.run(["pulpcore-manager", "showmigrations", "--plan"]).stdout
    return listed.count("[ ]")


def upload(pulp: Pulp, repository: str, origin: str, base_path: str, name: str) -> None:
    """Upload a file, and request it as often as each server is certain to be asked."""
    pulp.upload(repository, name, name.encode())
    for _ in range(4):
        response = httpx.get(f"{origin}{CONTENT}{base_path}/{name}")
        assert (response.status_code, response.content) == (200, name.encode())


def test_pulpcore_upgrade_with_migrations_fails_no_request(old: OldInstance, new: Instance) -> None:
    """Migrate under load, add a process of the new version, and stop those of the old one."""
    pulp = old.pulp()
    repository = pulp.repository({**FILES, "large": LARGE}, autopublish=True)
    base_path = pulp.distribute(repository=repository)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        # Two, of which one is asked for the first time after the migration.
        first, second = (stack.enter_context(serving(old, *OURS)) for _ in range(2))
        addresses = {"127.0.0.1:24816": first.url, "127.0.0.1:24818": second.url}
        front = Front(folder, old.url, addresses)
        origin = stack.enter_context(front.running("weight=1", "down")).url
        root = f"{origin}{CONTENT}{base_path}/"
        clients = stack.enter_context(mixed_load(asks(root)))
        download = SlowDownload(f"{root}large")

        assert migrations_to_apply(new) > 0
        new.run(["pulpcore-manager", "migrate", "--no-input"])
        assert migrations_to_apply(new) == 0
        clients.wait_for(100)
        assert download.finish() == LARGE
        upload(pulp, repository, origin, base_path, "by-the-old-api")
        front.shift("weight=1", "weight=1")
        clients.wait_for(100)
        assert front.served() == of(first, second)

        third = stack.enter_context(serving(new, *OURS))
        front.servers["127.0.0.1:24816"] = third.url
        front.shift("weight=1", "weight=1")
        clients.wait_for(100)
        assert front.served() == of(second, third)
        assert clients.failed == []

        worker = new.spawn(["pulpcore-worker"])
        newer = new.pulp(third.url)
        wait_until(lambda: len(newer.get("/pulp/api/v3/status/")["online_workers"]) > 1)
        upload(newer, repository, origin, base_path, "by-the-new-api")
        front.shift("weight=1", "down")
        stop(second.process)
        stop(first.process)
        clients.wait_for(100)
        assert front.served() == of(third)
        clients.stop()  # before the servers
        assert worker.poll() is None
    assert clients.failed == []
