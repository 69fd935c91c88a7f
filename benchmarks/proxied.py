"""CPU of files that are streamed through: from an object store and from a remote.

python -m benchmarks.proxied [--rounds N] [--against CHECKOUT]

The store and the remote are an nginx that sends a file of 128 MiB for any URL; a second nginx
passes it on (`proxy_pass`). Ours checks the digest of a remote's file.
"""

import argparse
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from django.db import connection

from benchmarks.measure import cpu_seconds
from benchmarks.servers import OURS_HTTP, QUIET, nginx_with, pulp
from tests.support.instance import Instance
from tests.support.orm import Orm
from tests.support.pulp import unique
from tests.support.server import Server, free_port, serving, serving_theirs

SIZE = 128 << 20
DOWNLOADS = 4
"""Downloads in a round, one after the other."""

_ARTIFACT = """
INSERT INTO core_artifact
    (pulp_id, pulp_created, timestamp_of_interest, pulp_domain_id, file, size, sha256)
VALUES (gen_random_uuid(), now(), now(), %s, 'artifact/data', %s, %s) RETURNING pulp_id
"""


@contextmanager
def store(instance: Instance, data: bytes) -> Iterator[tuple[int, Server]]:
    """Run an nginx that sends `data` for any URL; yield its port too."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").write_bytes(data)
        location = f"location / {{ root {folder}; try_files /data =404; }}"
        http = f"sendfile on; server {{ listen 127.0.0.1:{port}; {location} }}"
        with nginx_with(instance, http, port) as server:
            yield port, server


def proxy(instance: Instance, store_port: int) -> AbstractContextManager[Server]:
    """nginx that passes the responses of a store on."""
    port = free_port()
    http = f"""
        upstream store {{ server 127.0.0.1:{store_port}; keepalive 4; }}
        server {{
            listen 127.0.0.1:{port};
            location / {{
                proxy_pass http://store;
                proxy_http_version 1.1;
                proxy_set_header Connection "";
            }}
        }}
    """
    return nginx_with(instance, http, port)


def file_of_remote(url: str, digest: str) -> str:
    """Create a file that is fetched for each client, and return its path below the content root."""
    from pulp_file.app.models import FileContent, FileRemote

    from pulpcore.app.models import ContentArtifact, RemoteArtifact

    remote = FileRemote.objects.create(name=unique("remote"), url=url, policy="streamed")
    content = FileContent.objects.create(relative_path="file", digest=digest)
    known = ContentArtifact.objects.create(content=content, relative_path="file")
    RemoteArtifact.objects.create(
        content_artifact=known, remote=remote, url=url, size=SIZE, sha256=digest
    )
    return f"default/{_distribute(content)}/file"


def file_of_store(url: str, digest: str) -> str:
    """Create a file in a domain whose storage is S3, and return its path below the content root."""
    from pulp_file.app.models import FileContent

    from pulpcore.app.contexts import with_domain
    from pulpcore.app.models import ContentArtifact, Domain

    settings = {
        "access_key": "key",
        "secret_key": "secret",
        "bucket_name": "bucket",
        "endpoint_url": url,
        "region_name": "us-east-1",
        "signature_version": "s3v4",
        "addressing_style": "path",
    }
    domain = Domain(
        name=unique("domain"),
        storage_class="storages.backends.s3.S3Storage",
        storage_settings=settings,
        redirect_to_object_storage=False,
    )
    domain.save()
    with with_domain(domain):
        with connection.cursor() as cursor:  # the model would upload a file
            cursor.execute(_ARTIFACT, [domain.pk, SIZE, digest])
            (artifact,) = cursor.fetchone()
        content = FileContent.objects.create(relative_path="file", digest=digest)
        ContentArtifact.objects.create(content=content, relative_path="file", artifact_id=artifact)
        return f"{domain.name}/{_distribute(content)}/file"


def _distribute(content: Any) -> str:
    from pulpcore.app.models import Content

    orm = Orm()
    with orm.version({}).repository.cast().new_version() as version:
        version.add_content(Content.objects.filter(pk=content.pk))
    return orm.distribution(from_publication=False, repository_version=version)


def measure(server: Server, path: str) -> tuple[float, float]:
    """Download a file several times; return CPU seconds of the server per GB, and MB/s."""
    url = f"{server.url}/pulp/content/{path}"
    before, began = cpu_seconds(server), time.perf_counter()
    for _ in range(DOWNLOADS):
        command = ["curl", "-sf", "-o", os.devnull, "-w", "%{size_download}", url]
        received = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert int(received) == SIZE, received
    seconds, total = time.perf_counter() - began, SIZE * DOWNLOADS
    return (cpu_seconds(server) - before) / total * 1e9, total / seconds / 1e6


def compare(rounds: int, against: Path | None) -> None:
    """Print CPU seconds per GB and MB/s of each server, medians of the rounds."""
    data = os.urandom(SIZE)
    digest = hashlib.sha256(data).hexdigest()
    domains = {"PULP_DOMAIN_ENABLED": "true"}
    with pulp() as instance, ExitStack() as stack:
        port, _ = stack.enter_context(store(instance, data))
        url = f"http://127.0.0.1:{port}/"
        files = {"object store": file_of_store(url, digest), "remote": file_of_remote(url, digest)}
        ours = stack.enter_context(serving(instance, *QUIET, *OURS_HTTP, **domains))
        servers = {"pulp-content-star": ours}
        if against:
            path = {"PYTHONPATH": str(against)}
            server = stack.enter_context(serving(instance, *QUIET, *OURS_HTTP, **domains, **path))
            servers[f"ours in {against.name}"] = server
        servers["pulpcore-content"] = stack.enter_context(serving_theirs(instance, **domains))
        servers["nginx"] = stack.enter_context(proxy(instance, port))
        print("| file of 128 MiB | server | CPU s/GB | MB/s |\n| --- | --- | --- | --- |")
        for case, path in files.items():
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
            for number in range(rounds + 1):
                for name, server in servers.items():
                    found = measure(server, path)
                    if number:  # the first is to warm up
                        results[name].append(found)
            for name, all_found in results.items():
                cpu, rate = (median(column) for column in zip(*all_found, strict=True))
                print(f"| {case} | {name} | {cpu:.2f} | {rate:,.0f} |", flush=True)


def main() -> None:
    """Read the command line, and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.proxied",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    arguments = parser.parse_args()
    compare(arguments.rounds, arguments.against)


if __name__ == "__main__":
    main()
