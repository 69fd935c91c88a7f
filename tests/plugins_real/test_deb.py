"""pulp_deb, and apt."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.plugin import Content, Plugin, get, needs, recipe, run, upload
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-deb",
    client="apt-get: update and download, by hash and without",
)
CONTROL = """\
Package: star-hello
Version: 1.0
Architecture: all
Maintainer: Somebody <somebody@example.org>
Description: A package of the tests
"""

pytestmark = [needs("dpkg-deb"), needs("apt-get")]


@pytest.fixture(scope="module")
def package(workshop: Path) -> Path:
    control = workshop / "hello/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(CONTROL)
    (workshop / "hello/hello").write_text("hello")
    file = workshop / "star-hello_1.0_all.deb"
    run(["dpkg-deb", "--root-owner-group", "-b", workshop / "hello", file], workshop)
    return file


@pytest.fixture(scope="module")
def content(api, instance, package: Path) -> Iterator[Content]:
    """A repository of a package, published twice."""
    repository = api.create("repositories/deb/apt/", name=Orm.unique())["pulp_href"]
    where = {"distribution": "star", "component": "main"}
    upload(api, "deb/packages/", package, repository=repository, **where)
    publish = {"repository": repository, "structured": True, "simple": True}
    api.create("publications/deb/apt/", **publish)
    base_path = api.create(
        "distributions/deb/apt/", name=Orm.unique(), base_path=Orm.unique(), repository=repository
    )["base_path"]
    index = "dists/star/main/binary-all/"
    packages = get(f"{instance.content_url}{base_path}/{index}Packages").content
    by_hash = f"{index}by-hash/SHA256/{hashlib.sha256(packages).hexdigest()}"
    yield Content(base_path, {"index": index, "by_hash": by_hash})


PACKAGE = "/pulp/content/{base}/pool/main/s/star-hello/star-hello_1.0_all.deb"


@pytest.mark.parametrize(
    "row",
    [
        Row(PACKAGE, FILE),
        Row(PACKAGE, FILE, method="HEAD"),
        Row(PACKAGE, FILE, {"Range": "bytes=5-"}),
        Row("/pulp/content/{base}/dists/star/Release", FILE),
        Row("/pulp/content/{base}/dists/default/Release", FILE),
        Row("/pulp/content/{base}/{index}Packages", FILE),
        Row("/pulp/content/{base}/{index}Packages.gz", FILE),
        Row("/pulp/content/{base}/{by_hash}", FILE),
        Row("/pulp/content/{base}/", "listing page"),
        Row("/pulp/content/{base}/dists/", "listing page"),
        Row("/pulp/content/{base}/dists/star/InRelease", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


@pytest.mark.parametrize("by_hash", ["yes", "no", "force"])
def test_apt_downloads(instance, content, package, home, by_hash):
    source = f"deb [trusted=yes] {instance.content_url}{content.base_path} star main\n"
    apt(home, source, by_hash, "update")
    apt(home, source, by_hash, "download", "star-hello")
    assert (home / package.name).read_bytes() == package.read_bytes()


@pytest.mark.parametrize(("title", "kind"), [("apt, deb822", "sources"), ("apt, one line", "list")])
def test_apt_configured_by_the_recipe(instance, content, package, home, title, kind):
    text = recipe(instance, content.base_path, title)
    apt(home, text, "yes", "update", kind=kind)
    apt(home, text, "yes", "download", "star-hello", kind=kind)
    assert (home / package.name).read_bytes() == package.read_bytes()


def apt(home: Path, source: str, by_hash: str, *command: str, kind: str = "list") -> None:
    """Run apt-get without configuration, lists, cache and packages of the machine.

    `source` is the text of the file of sources, which is of the format `kind`.
    """
    for folder in ("lists/partial", "cache/archives/partial", "etc/trusted.gpg.d", "none"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    (home / "parts").mkdir(exist_ok=True)
    (home / f"parts/star.{kind}").write_text(source)
    options = {
        "Dir::State::Lists": home / "lists",
        "Dir::State::Status": home / "status",
        "Dir::Cache": home / "cache",
        "Dir::Etc::SourceList": home / "none/none",
        "Dir::Etc::SourceParts": home / "parts",
        "Dir::Etc::Parts": home / "none",
        "Dir::Etc::Main": home / "none/none",
        "APT::Sandbox::User": "",
        "Acquire::By-Hash": by_hash,
        "Acquire::http::Proxy": "false",
        "Acquire::Retries": 0,
        "APT::Update::Error-Mode": "any",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    (home / "apt.conf").write_text("")
    run(["apt-get", *flags, *command], home, APT_CONFIG=str(home / "apt.conf"))
