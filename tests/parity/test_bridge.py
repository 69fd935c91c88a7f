"""Parity of a legacy plugin: on upstream's content app, and on ours by the aiohttp bridge."""

from collections.abc import Iterator

import pytest

from tests.parity.test_parity import FILE, Row, compare
from tests.support.bridged import installed
from tests.support.instance import Instance
from tests.support.pulp import unique
from tests.support.server import Server, serving

GZIP = {"Accept-Encoding": "gzip"}
PLAIN = {"Accept-Encoding": "identity"}
HOOK = "security headers of plugins; middlewares of plugins"
OURS = "validators; security headers; middlewares of plugins"
FILES = "files of plugins; middlewares of plugins"
ROUTES = "security headers of plugins"

ROWS = [
    Row("{bridged}/json", HOOK),
    Row("{bridged}/json", HOOK, method="HEAD"),
    Row("{bridged}/text", HOOK),
    Row("{bridged}/page", HOOK),
    Row("{bridged}/compressed", HOOK, GZIP),
    Row("{bridged}/compressed", HOOK, PLAIN),
    Row("{bridged}/compressed", HOOK, {"Accept-Encoding": "deflate"}),
    Row("{bridged}/found", HOOK),
    Row("{bridged}/moved", HOOK),
    Row("{bridged}/missing", HOOK),
    Row("{bridged}/denied", HOOK),
    Row("{bridged}/teapot", HOOK),
    Row("{bridged}/empty", HOOK),
    Row("{bridged}/stream", HOOK),
    Row("{bridged}/stored", FILES),
    Row("{bridged}/stored", FILES, {"Range": "bytes=2-4"}),
    Row("{bridged}/stored", FILES, method="HEAD"),
    Row("{bridged}/local", FILES),
    Row("{bridged}/local", FILES, {"Range": "bytes=2-4"}),
    Row("{bridged}/content", OURS),
    Row("{bridged}/a.txt", OURS),
    Row("{bridged}/", "listing page; middlewares of plugins"),
    Row("../bridged/hello/a%20b?q=%C3%A9&q=2", ROUTES, {"Cookie": "a=1"}),
    Row("../bridged/hello/x", ROUTES, {"Authorization": "{basic}"}),
    Row("../bridged/hello/x", ROUTES, method="POST"),
    Row("../bridged/hello/x", ROUTES, method="DELETE"),
    Row("../bridged/compressed", ROUTES, GZIP),
    Row("../bridged/found", ROUTES),
    Row("../bridged/form", ROUTES),
    Row("../bridged/hello/x/y", ROUTES),
    Row("../bridged-part/x", ROUTES),
    Row("../bridged/files/{bridged}/a.txt", f"{FILE}; {ROUTES}"),
    Row("../bridged/files/{bridged}/nope", ROUTES),
    Row("../bridged/by-name/{bridged}/name/a.txt", f"{FILE}; {ROUTES}"),
    Row("bridged-api/x", ROUTES),
]


@pytest.fixture(scope="module")
def ours(instance: Instance, tmp_path_factory) -> Iterator[Server]:
    with serving(instance, **installed(tmp_path_factory.mktemp("notes"))) as server:
        yield server


@pytest.fixture(scope="module")
def values(instance: Instance) -> Iterator[dict[str, str]]:
    pulp = instance.pulp()
    repository = pulp.repository({"a.txt": b"0123456789"})
    pulp.publish(repository)
    base = unique("bridged")
    pulp.create("distributions/file/file/", name=base, base_path=base, repository=repository)
    yield {"bridged": base, "basic": pulp.auth._auth_header}
    pulp.cleanup()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_parity_of_plugins(ours, theirs, values, row):
    # Some bodies contain the URL of the request.
    host = {"Host": "pulp.example.org"}
    row = Row(row.path, row.differences, {**host, **row.headers}, row.method)
    compare(ours.content_url, theirs.content_url, values, row)
