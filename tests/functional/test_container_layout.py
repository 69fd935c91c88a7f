"""The containers of deploy/ as processes: the image's command, and two replicas behind nginx.

nginx has deploy/compose/nginx.conf. No container runtime is needed: `make test-image` has one.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.deployment import (
    DEPLOY,
    VALUES,
    command,
    compose,
    health_command,
    instructions,
)
from tests.support.instance import Instance, in_venv, wait_until
from tests.support.listing_parser import parse_listing
from tests.support.load import Ask, SlowDownload, mixed_load
from tests.support.nginx import NGINX, replace_all, running_nginx, temporary_folder
from tests.support.orm import Orm
from tests.support.server import Server, free_port, running
from tests.support.stores import s3

FILES = {"a.txt": b"0123456789" * 100, "dir/b": b"b"}
LARGE = os.urandom(1 << 20) * 32  # larger than the buffers of nginx and sockets

OF_THE_NETWORK = ("PULP_DATABASES", "PULP_STORAGES", "PULP_DB_ENCRYPTION_KEY", "PULP_MEDIA_ROOT")


def environment() -> dict[str, str]:
    """Return a replica's environment in compose.yaml."""
    found: dict[str, str] = compose()["services"]["pulp-1"]["environment"]
    return found


@pytest.fixture(scope="module")
def base(module_orm: Orm) -> str:
    files = {**FILES, "large/large": LARGE}
    return module_orm.distribution(publication=module_orm.publication(files))


Replica = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def replica(instance: Instance) -> Replica:
    """Return a context manager that runs the image's command, on the database of the instance."""

    def run(port: int) -> AbstractContextManager[Server]:
        words = command()
        words[words.index("--port") + 1] = str(port)
        words[words.index("--host") + 1] = "127.0.0.1"
        own = {k: v for k, v in environment().items() if not k.startswith(OF_THE_NETWORK)}
        return running(instance, words, f"http://127.0.0.1:{port}", **own)

    return run


def is_healthy(server: Server) -> bool:
    """Run the image's health check, with a proxy in the environment that it must not use."""
    words = [word.replace("24818", server.url.rpartition(":")[2]) for word in health_command()]
    completed = subprocess.run(
        [sys.executable, *words[1:]], env={"http_proxy": "http://127.0.0.1:9"}, capture_output=True
    )
    return completed.returncode == 0


def test_image_command_drains_on_sigterm(replica: Replica, base: str) -> None:
    with replica(free_port()) as server:
        assert is_healthy(server)
        download = SlowDownload(f"{server.content_url}{base}/large/large")
        server.process.terminate()
        address = urlsplit(server.url)

        def refuses() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((address.hostname, address.port)) != 0

        wait_until(refuses, explain=server.said)
        assert not is_healthy(server)
        assert download.finish() == LARGE
        assert server.process.wait(300) in (0, -15), server.said()


def test_settings_of_compose_are_read_without_a_file(tmp_path: Path) -> None:
    """They and the bucket's script work with an object store."""
    with s3() as store:
        options = "PULP_STORAGES__default__OPTIONS__"
        changed = {
            f"{options}endpoint_url": store.relay.url,
            f"{options}bucket_name": "of-compose",
            "PULP_DB_ENCRYPTION_KEY": str(tmp_path / "key"),
            "PULP_SETTINGS": str(tmp_path / "missing.py"),
            "PATH": os.environ["PATH"],
        }
        (tmp_path / "key").write_text("hlNoxp1aCvP3MWAbLFNGkjw5fO6D7lYyMc1aKrHTnEE=")
        environ = {**environment(), **changed}
        bucket = [sys.executable, str(DEPLOY / "compose" / "bucket.py")]
        for _ in range(2):  # it is created once
            subprocess.run(bucket, env=environ, check=True)
        code = (
            "from django.conf import settings; from django.core.files.base import ContentFile; "
            "from django.core.files.storage import default_storage as storage; "
            "storage.save('a', ContentFile(b'in the bucket')); "
            "print(storage.__class__.__name__, storage.open('a').read(), storage.bucket_name, "
            "settings.DATABASES['default'], settings.REDIRECT_TO_OBJECT_STORAGE)"
        )
        completed = subprocess.run(
            in_venv(["python", "-c", f"import django; django.setup(); {code}"]),
            env={**environ, "DJANGO_SETTINGS_MODULE": "pulpcore.app.settings"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    assert completed.returncode == 0, completed.stderr
    for part in (
        *("S3Storage", "b'in the bucket' of-compose", "'HOST': 'postgres'", "'USER': 'pulp'"),
        *("False", VALUES["POSTGRES_PASSWORD"]),
    ):
        assert part in completed.stdout


def test_image_has_static_files(tmp_path: Path) -> None:
    """They are collected while it is built, without settings and a database."""
    (line,) = [
        value for name, value in instructions() if "collectstatic" in value and name == "RUN"
    ]
    completed = subprocess.run(
        ["sh", "-c", line],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PULP_STATIC_ROOT": str(tmp_path / "assets"),
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert completed.returncode == 0, completed.stderr
    assert (tmp_path / "assets" / "content_star" / "page.css").is_file()
    assert (tmp_path / "assets" / "rest_framework").is_dir()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_replicas_are_killed_and_rolled_without_failed_requests(
    replica: Replica, base: str, stack: ExitStack
) -> None:
    folder = stack.enter_context(temporary_folder())
    replicas = [stack.enter_context(replica(free_port())) for _ in range(2)]
    addresses = [server.url.removeprefix("http://") for server in replicas]
    port, served = free_port(), folder / "served.log"
    block = re.search(r"http \{\n(.*)\}", (DEPLOY / "compose/nginx.conf").read_text(), re.S)
    assert block
    values = {
        "access_log /dev/stdout pulp;": "",
        "pulp-1:24818": addresses[0],
        "pulp-2:24818": addresses[1],
        "listen 8080": f"listen 127.0.0.1:{port}",
        "location / {": f"location / {{ access_log {served} pulp;",
    }
    nginx = stack.enter_context(running_nginx(folder, port, replace_all(block[1], values)))
    root = f"{nginx.url}/pulp/content/{base}/"

    def is_served_by(*expected: str) -> bool:
        lines = served.read_text().splitlines()
        return {address for address in addresses if any(address in line for line in lines)} == {
            *expected
        }

    def two_downloads() -> list[SlowDownload]:
        return [SlowDownload(f"{root}large/large") for _ in replicas]

    small, part = FILES["a.txt"], (206, FILES["a.txt"][5:501])
    asks = [
        Ask(f"{root}a.txt", lambda status, body: (status, body) == (200, small)),
        Ask(f"{root}a.txt", lambda *answer: answer == part, {"Range": "bytes=5-500"}),
        Ask(
            root,
            lambda status, body: set(parse_listing(body.decode())) == {"a.txt", "dir/", "large/"},
        ),
        Ask(f"{root}dir", lambda status, body: status == 301),
        Ask(f"{root}nope", lambda status, body: status == 404),
    ]
    downloads = two_downloads()  # in turn: one of each replica
    clients = stack.enter_context(mixed_load(asks, repeats_cut=True))
    clients.wait_for(64)
    assert is_served_by(*addresses)

    replicas[1].process.kill()
    replicas[1].process.wait()
    served.write_text("")
    clients.wait_for(200)
    results = [download.finish_or_resume() for download in downloads]
    assert [body == LARGE for body, _ in results] == [True, True]
    assert sorted(was_cut for _, was_cut in results) == [False, True]
    # The event loop sends each of these responses in one step, so that only one can be cut.
    assert len(clients.cut) <= 1, clients.cut

    replicas[1] = stack.enter_context(replica(int(addresses[1].rpartition(":")[2])))
    served.write_text("")
    wait_until(lambda: is_served_by(*addresses), explain=lambda: str(clients.failed))
    for number, address in enumerate(addresses):
        downloads = two_downloads()
        replicas[number].process.terminate()
        wait_until(lambda number=number: "Shutting down" in replicas[number].said())
        clients.wait_for(64)
        assert [download.finish() == LARGE for download in downloads] == [True, True]
        replicas[number].process.wait(300)
        stack.enter_context(replica(int(address.rpartition(":")[2])))
        served.write_text("")
        wait_until(lambda: is_served_by(*addresses), explain=lambda: str(clients.failed))
    clients.stop()  # before the servers
    assert clients.failed == []
