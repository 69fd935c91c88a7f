"""Parity of pull-through: distributions with a remote on both content apps."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import (
    FILE,
    Row,
    check_differences,
    compare,
    differing_facets,
    send_row,
)
from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.orm import Orm
from tests.support.remote_server import serving_upstream
from tests.support.server import free_port, serving, serving_theirs

PLUGIN = {"PYTHONPATH": str(Path(__file__).parents[2])}

PULL_THROUGH = "pulled through; security headers"
ROWS = [
    Row("{streamed}/a.bin", PULL_THROUGH),
    Row("{streamed}/a.bin", PULL_THROUGH, method="HEAD"),
    Row("{streamed}/a.bin", PULL_THROUGH, {"Range": "bytes=2-4"}),
    Row(
        "{streamed}/a.bin",
        "416; 416 of pull-through",
        {"Range": "bytes=x"},
    ),
    Row("{streamed}/a.bin", PULL_THROUGH, {"If-None-Match": '"x"'}),
    Row("{streamed}/index.html", PULL_THROUGH),
    Row("{streamed}/index.html", PULL_THROUGH, method="HEAD"),
    Row("{streamed}/simple/", PULL_THROUGH),
    Row("{streamed}/", PULL_THROUGH),
    Row("{streamed}/chunked.html", PULL_THROUGH),
    Row("{streamed}", "redirect body"),
    Row("{streamed}/encoded.bin", PULL_THROUGH),
    Row("{streamed}/nope", "error text"),
    Row("{streamed}/nope.html", "error text", method="HEAD"),
    Row("{streamed}/401.html", "error text"),
    Row("{streamed}/403.html", "error text"),
    Row("{streamed}/500.html", "error text"),
    Row("{streamed}/429.bin", "error text"),
    Row("{unreachable}/a.bin", "remotes that cannot be reached"),
    Row("{mixed}/a.txt", FILE),
    Row("{mixed}/", "listing page"),
    Row("{mixed}/index.xml", PULL_THROUGH),
]

# Without pull-through in pulp_file.
PLAIN = Row("{saving}/index.html", "plugins without pull-through")


@pytest.fixture(scope="module")
def theirs(instance) -> Iterator[str]:
    with serving_theirs(
        instance, sys.executable, "-m", "tests.support.pull_through_app", **PLUGIN
    ) as server:
        yield server.content_url


@pytest.fixture(scope="module")
def ours(instance) -> Iterator[str]:
    with serving(instance, app="tests.support.pull_through_app:application", **PLUGIN) as server:
        yield server.content_url


@pytest.fixture(scope="module")
def values(instance) -> Iterator[dict[str, str]]:
    from pulp_file.app.models import FileRemote

    orm = Orm()
    with serving_upstream() as server:
        for path in ("a.bin", "index.html", "simple/", "", "index.xml", "ours.bin", "them.bin"):
            server.files[path] = b"0123456789"
        for path, behaviour in {
            "chunked.html": remote_server.chunked,
            "encoded.bin": remote_server.gzip_encoded,
            **{f"{code}.html": remote_server.status(code) for code in (401, 403, 500)},
            "429.bin": remote_server.status(429),
        }.items():
            server.files[path] = b"0123456789"
            server.behaviours[path] = behaviour

        def remote(url: str, policy: str) -> FileRemote:
            return orm._save(FileRemote(name=orm.unique(), url=url, policy=policy, max_retries=1))

        streams = remote(server.url, "streamed")
        version = orm.version({"a.txt": b"0123456789"})
        yield {
            "streamed": orm.distribution(from_publication=False, remote=streams),
            "unreachable": orm.distribution(
                remote=remote(f"http://127.0.0.1:{free_port()}/", "streamed")
            ),
            "saving": orm.distribution(remote=remote(server.url, "on_demand")),
            "mixed": orm.distribution(
                from_publication=False, repository_version=version, remote=streams
            ),
        }
        orm.cleanup()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_pull_through_parity(ours, theirs, values, row):
    compare(ours, theirs, values, row)


def test_pull_through_parity_of_saved_files(ours, theirs, values):
    """A file saved by one server is served by the other; the first responses are equal.

    The names have the same length, which the plugin sends as a header.
    """
    from pulpcore.app.models import ContentArtifact

    row = Row("{saving}/{name}", PULL_THROUGH)
    answers = {
        name: send_row(root, row, {**values, "name": f"{name}.bin"})
        for name, root in (("ours", ours), ("them", theirs))
    }
    check_differences(
        row, differing_facets(answers["them"], answers["ours"]), answers["them"], answers["ours"]
    )
    for name in answers:
        saved = ContentArtifact.objects.filter(
            relative_path=f"{name}.bin", artifact__isnull=False, remoteartifact__isnull=False
        )
        wait_until(saved.exists)
        compare(ours, theirs, {**values, "name": f"{name}.bin"}, Row("{saving}/{name}", FILE))


def test_pull_through_parity_without_support_in_the_plugin(instance, upstream, values):
    compare(instance.content_url, upstream, values, PLAIN)
