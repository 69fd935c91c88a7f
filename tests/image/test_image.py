"""The image, as deploy/compose.yaml and deploy/kubernetes/ run it, from an empty database.

Apart from the others: `make test-image`.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from django.db import connection

from tests.support.database_proxy import database_proxy
from tests.support.deployment import DEPLOY, command, compose, kustomization, manifests
from tests.support.instance import Instance, wait_until
from tests.support.load import SlowDownload
from tests.support.podman import Container, Run, container, podman, run_once
from tests.support.pulp import Pulp
from tests.support.stores import s3

PORT = 24818
URL = f"http://127.0.0.1:{PORT}"
CONTENT = f"{URL}/pulp/content/"
PASSWORD = "password-of-the-image"
KEY = "hlNoxp1aCvP3MWAbLFNGkjw5fO6D7lYyMc1aKrHTnEE="
KEY_FILE = "database_fields.symmetric.key"
LARGE = os.urandom(1 << 20) * 32  # larger than the buffers of sockets


@dataclass
class Site:
    """The containers of a deployment, on an empty database and object store."""

    image: str
    bucket: Run
    migrate: Run
    worker: Run
    server: Run

    def manage(self, *arguments: str, user: str = "700:0") -> str:
        """Run a command of `pulpcore-manager` in a container of its own."""
        options = [*self.server.options, "--user", user]
        run = Run(["pulpcore-manager", *arguments], self.server.environ, options)
        return run_once(run, self.image)


def from_compose(environ: dict[str, str], key: Path) -> dict[str, Run]:
    """Return the containers of compose.yaml, with addresses of this machine."""
    services = compose()["services"]

    def run(name: str) -> Run:
        service = services[name]
        options = ["--read-only"] if service["read_only"] else []
        options += [word for path in service["tmpfs"] for word in ("--tmpfs", path)]
        volumes = [each.replace("./", f"{DEPLOY}/", 1) for each in service["volumes"]]
        (secret,) = service["secrets"]
        volumes.append(f"{key}:{secret['target']}:ro")
        options += [word for volume in volumes for word in ("--volume", volume)]
        return Run(service.get("command", []), {**service["environment"], **environ}, options)

    return {
        "bucket": run("bucket"),
        "migrate": run("migrate"),
        "worker": run("worker-1"),
        "server": run("pulp-1"),
    }


def from_kubernetes(environ: dict[str, str], key: Path) -> dict[str, Run]:
    """Return the containers of the manifests, with addresses of this machine."""
    (settings,) = kustomization()["configMapGenerator"]
    configured = dict(literal.split("=", 1) for literal in settings["literals"])
    found = manifests()

    def run(name: str) -> Run:
        pod = found[name]["spec"]["template"]["spec"]
        (each,) = pod["containers"]
        user = pod["securityContext"]
        options = ["--user", f"{user['runAsUser']}:{user['runAsGroup']}"]
        options += ["--read-only"] if each["securityContext"]["readOnlyRootFilesystem"] else []
        mounts = {mount["name"]: mount["mountPath"] for mount in each["volumeMounts"]}
        options += ["--volume", f"{key.parent}:{mounts.pop('keys')}:ro"]
        # The kubelet makes an emptyDir for all users.
        options += [
            word for path in mounts.values() for word in ("--tmpfs", f"{path}:rw,mode=2777")
        ]
        return Run(each.get("command", []), {**configured, **environ}, options)

    server = run("pulp.yaml")
    script = (DEPLOY / "compose" / "bucket.py").read_text()
    return {
        "bucket": Run(["python3", "-c", script], server.environ, server.options),
        "migrate": run("migration.yaml"),
        "worker": run("worker.yaml"),
        "server": server,
    }


DEPLOYMENTS = {"compose": from_compose, "kubernetes": from_kubernetes}


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def site(
    request: pytest.FixtureRequest,
    image: str,
    instance: Instance,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """An empty database on the server of `pulp-star up`, reached over TCP, and an S3 store."""
    key = tmp_path_factory.mktemp("keys") / KEY_FILE
    key.write_text(KEY)
    key.chmod(0o644)
    key.parent.chmod(0o755)
    with empty_database() as (port, name), s3() as store:
        environ = {
            "PULP_SECRET_KEY": "secret-of-django",
            "PULP_CONTENT_ORIGIN": URL,
            "PULP_DATABASES__default__HOST": "127.0.0.1",
            "PULP_DATABASES__default__PORT": str(port),
            "PULP_DATABASES__default__NAME": name,
            "PULP_DATABASES__default__PASSWORD": "password-of-the-database",
            "PULP_STORAGES__default__OPTIONS__endpoint_url": store.relay.url,
            "PULP_STORAGES__default__OPTIONS__addressing_style": "path",
            "PULP_STORAGES__default__OPTIONS__access_key": "pulp",
            "PULP_STORAGES__default__OPTIONS__secret_key": "secret-of-s3",
            "PULP_REDIRECT_TO_OBJECT_STORAGE": "false",  # so that the container sends files
        }
        found = Site(image, **DEPLOYMENTS[request.param](environ, key))
        for step in (found.bucket, found.migrate):
            run_once(step, image)
        found.manage("reset-admin-password", "--password", PASSWORD)
        yield found


@contextmanager
def empty_database() -> Iterator[tuple[int, str]]:
    """Create a database, and yield a port that leads to its server, and its name."""
    name = "of_the_image"
    parameters = {"host": connection.settings_dict["HOST"], "user": "pulp", "dbname": "pulp"}
    with psycopg.connect(**parameters, autocommit=True) as own, database_proxy() as proxy:
        own.execute(f"CREATE DATABASE {name}")
        try:
            yield proxy.port, name
        finally:
            own.execute(f"DROP DATABASE {name} WITH (FORCE)")


def is_listening() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


@contextmanager
def serving(site: Site) -> Iterator[Container]:
    """Run the server's container until it is ready."""
    assert not is_listening(), f"port {PORT}, which the image uses, is in use"
    with container(site.server, site.image) as server:

        def is_ready() -> bool:
            assert server.inspect("{{.State.Running}}") == "true", server.logs()
            return is_listening() and httpx.get(f"{CONTENT}readyz").status_code == 200

        wait_until(is_ready, explain=server.logs)
        yield server


def distribute(files: dict[str, bytes]) -> str:
    """Upload files through the API of the containers, and return the base path that has them."""
    credentials = ("admin", PASSWORD)
    with httpx.Client(base_url=URL, auth=credentials) as client:
        pulp = Pulp(client, httpx.BasicAuth(*credentials))
        publication = pulp.publish(pulp.repository(files))
        return pulp.distribute(publication=publication)


def test_image_configuration(image: str) -> None:
    """The format `docker` keeps the health check, which the default of podman drops."""
    inspected = podman("image", "inspect", "--format", "{{json .Config}}", image).stdout
    configuration = json.loads(inspected)
    assert configuration["User"] == "700:0"
    assert configuration["StopSignal"] in ("SIGTERM", "15")
    assert configuration["Cmd"] == command()
    assert not configuration.get("Entrypoint")
    health = podman("image", "inspect", "--format", "{{json .HealthCheck}}", image).stdout
    assert json.loads(health)["Test"][0] == "CMD"


def test_containers_serve_an_uploaded_file(site: Site) -> None:
    files = {"a.txt": b"from a container", "large": LARGE}
    with container(site.worker, site.image) as worker, serving(site) as server:
        assert httpx.get(f"{CONTENT}livez").status_code == 200
        assert server.is_healthy()
        base = distribute(files)
        for path, body in files.items():
            assert httpx.get(f"{CONTENT}{base}/{path}").content == body
        assert "a.txt" in httpx.get(f"{CONTENT}{base}/").text
        assert httpx.get(f"{URL}/assets/content_star/page.css").status_code == 200

        for each in (worker, server):
            status = each.exec("cat", "/proc/1/status")
            (ids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
            assert ids == ["700"] * 4

        server.signal("STOP")
        assert not server.is_healthy()
        server.signal("CONT")
        wait_until(server.is_healthy)

        download = SlowDownload(f"{CONTENT}{base}/large")
        stopping = threading.Thread(
            target=podman, args=("stop", "--time", "330", server.name), daemon=True
        )
        stopping.start()
        wait_until(lambda: not is_listening(), explain=server.logs)
        assert download.finish() == LARGE
        assert server.wait() == 0, server.logs()
        stopping.join(300)

        worker.signal("TERM")
        assert worker.wait() == 0, worker.logs()


def test_check_finds_no_fault_as_any_user_of_the_group(site: Site) -> None:
    """As on OpenShift, which chooses the user: settings, database, store and temporary files."""
    found = json.loads(
        site.manage("content-star-check", "--json", "--workers", "1", user="1234567:0")
    )
    assert found["fault"] == 0, found
    assert ("storage", "ok") in {(line["check"], line["level"]) for line in found["lines"]}


def test_migration_without_a_database_fails(site: Site) -> None:
    """So that an orchestrator repeats it."""
    with pytest.raises(AssertionError, match=r"(?s)podman run.*[Cc]onnection"):
        run_once(site.migrate, site.image, PULP_DATABASES__default__PORT="9")
