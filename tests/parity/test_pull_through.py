"""Distributions with a remote, asked through upstream's content app and through ours."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row, ask, compare, facets, judge
from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.orm import Orm
from tests.support.remote_server import serving_upstream
from tests.support.server import free_port, serving, serving_theirs

PLUGIN = {"PYTHONPATH": str(Path(__file__).parents[2])}

PULLED = "pulled through; security headers"
ROWS = [
    Row("{streamed}/a.bin", PULLED),
    Row("{streamed}/a.bin", PULLED, method="HEAD"),
    Row("{streamed}/a.bin", PULLED, {"Range": "bytes=2-4"}),
    Row(
        "{streamed}/a.bin",
        "416; 416 of what is pulled through",
        {"Range": "bytes=x"},
    ),
    Row("{streamed}/a.bin", PULLED, {"If-None-Match": '"x"'}),
    Row("{streamed}/index.html", PULLED),
    Row("{streamed}/index.html", PULLED, method="HEAD"),
    Row("{streamed}/simple/", PULLED),
    Row("{streamed}/", PULLED),
    Row("{streamed}/chunked.html", PULLED),
    Row("{streamed}", "redirect body"),
    Row("{streamed}/encoded.bin", PULLED),
    Row("{streamed}/nope", "error text"),
    Row("{streamed}/nope.html", "error text", method="HEAD"),
    Row("{streamed}/401.html", "error text"),
    Row("{streamed}/403.html", "error text"),
    Row("{streamed}/500.html", "error text"),
    Row("{streamed}/429.bin", "error text"),
    Row("{nowhere}/a.bin", "remotes that cannot be reached"),
    Row("{mixed}/a.txt", FILE),
    Row("{mixed}/", "listing page"),
    Row("{mixed}/index.xml", PULLED),
]

# With pulp_file as it is.
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
def places(instance) -> Iterator[dict[str, str]]:
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
            "nowhere": orm.distribution(
                remote=remote(f"http://127.0.0.1:{free_port()}/", "streamed")
            ),
            "saving": orm.distribution(remote=remote(server.url, "on_demand")),
            "mixed": orm.distribution(
                from_publication=False, repository_version=version, remote=streams
            ),
        }
        orm.cleanup()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_parity(ours, theirs, places, row):
    compare(ours, theirs, places, row)


def test_parity_of_what_is_saved(ours, theirs, places):
    """What the one has saved, the other serves; both answer the first request alike.

    The names are of one length, which the plugin sends as a header.
    """
    from pulpcore.app.models import ContentArtifact

    row = Row("{saving}/{name}", PULLED)
    answers = {
        name: ask(root, row, {**places, "name": f"{name}.bin"})
        for name, root in (("ours", ours), ("them", theirs))
    }
    judge(row, facets(answers["them"], answers["ours"]), answers["them"], answers["ours"])
    for name in answers:
        saved = ContentArtifact.objects.filter(
            relative_path=f"{name}.bin", artifact__isnull=False, remoteartifact__isnull=False
        )
        wait_until(saved.exists)
        compare(ours, theirs, {**places, "name": f"{name}.bin"}, Row("{saving}/{name}", FILE))


def test_parity_without_pull_through_in_the_plugin(instance, upstream, places):
    compare(instance.content_url, upstream, places, PLAIN)
