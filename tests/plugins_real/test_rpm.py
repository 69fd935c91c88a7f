"""pulp_rpm, and dnf."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.differences import ANSWER
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    get,
    needs,
    only_pulp_requested,
    recipe,
    run,
    upload,
)
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-rpm",
    client="dnf: reposync, repoquery and download, also by the `config.repo` that the plugin"
    " makes, and on demand",
)
SPEC = """\
Name: star-{name}
Version: 1.{name}
Release: 1
Summary: A package of the tests
License: Public Domain
BuildArch: noarch
%description
It holds one file.
%install
mkdir -p %{{buildroot}}/usr/share
echo {name} > %{{buildroot}}/usr/share/star-{name}
%files
/usr/share/star-{name}
"""

pytestmark = [needs("rpmbuild"), needs("dnf")]


@pytest.fixture(scope="module")
def content(api, workshop: Path) -> Iterator[Content]:
    """A repository of two packages."""
    repository = api.create("repositories/rpm/rpm/", name=Orm.unique())["pulp_href"]
    for name in ("0", "1"):
        upload(api, "rpm/packages/", build(workshop, name), repository=repository)
    publication = api.create("publications/rpm/rpm/", repository=repository)
    base_path = api.create(
        "distributions/rpm/rpm/",
        name=Orm.unique(),
        base_path=Orm.unique(),
        repository=repository,
        generate_repo_config=True,
    )["base_path"]
    from pulp_rpm.app.models import RpmPublication

    names = RpmPublication.objects.get(pk=publication["pulp_href"].split("/")[-2])
    primary = names.published_metadata.get(relative_path__contains="primary").relative_path
    yield Content(base_path, {"primary": primary})


def build(workshop: Path, name: str) -> Path:
    spec = workshop / f"{name}.spec"
    spec.write_text(SPEC.format(name=name))
    run(["rpmbuild", "-bb", "-D", f"_topdir {workshop}", spec], workshop)
    return workshop / f"RPMS/noarch/star-{name}-1.{name}-1.noarch.rpm"


PACKAGE = "/pulp/content/{base}/Packages/s/star-0-1.0-1.noarch.rpm"


@pytest.mark.parametrize(
    "row",
    [
        Row(PACKAGE, FILE),
        Row(PACKAGE, FILE, method="HEAD"),
        Row(PACKAGE, FILE, {"Range": "bytes=0-99"}),
        Row("/pulp/content/{base}/repodata/repomd.xml", FILE),
        Row("/pulp/content/{base}/{primary}", FILE),
        Row("/pulp/content/{base}/config.repo", ANSWER),
        Row("/pulp/content/{base}/config.repo", ANSWER, method="HEAD"),
        Row("/pulp/content/{base}/", "listing page"),
        Row("/pulp/content/{base}/repodata/", "listing page"),
        Row("/pulp/content/{base}/repodata", "redirect body"),
        Row("/pulp/content/{base}/nope", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


def dnf(home: Path, *arguments: str) -> str:
    """Run dnf without configuration, cache and repositories of the machine."""
    base = ["--installroot", home / "root", "--releasever=1", "--setopt=reposdir=repos"]
    base += [f"--setopt=cachedir={home}/cache", f"--setopt=logdir={home}", "--setopt=keepcache=0"]
    home.mkdir(exist_ok=True)
    return run(["dnf", "-y", *base, *arguments], home).stdout


def test_dnf_downloads(instance, content, home):
    """With the URL of the distribution as the repository."""
    path = ("--repofrompath", f"star,{instance.content_url}{content.base_path}/", "--repo=star")
    assert "star-1-0:1.1-1.noarch" in dnf(home, *path, "repoquery", "star-1")
    dnf(home, *path, "--nogpgcheck", "download", "star-0", f"--destdir={home}")
    assert verified(home, home / "star-0-1.0-1.noarch.rpm") == "star-0"


def test_dnf_reposync_mirrors_packages_and_metadata(instance, content, home):
    path = ("--repofrompath", f"star,{instance.content_url}{content.base_path}/", "--repo=star")
    dnf(home, *path, "reposync", "--download-metadata", f"--download-path={home}/mirror")
    mirror = home / "mirror/star"
    assert {verified(home, file) for file in mirror.rglob("*.rpm")} == {"star-0", "star-1"}
    repomd = get(f"{instance.content_url}{content.base_path}/repodata/repomd.xml")
    assert (mirror / "repodata/repomd.xml").read_bytes() == repomd.content


def test_dnf_configured_by_pulp(instance, content, home):
    """With the `config.repo` that the plugin generates for the request."""
    config = get(f"{instance.content_url}{content.base_path}/config.repo")
    assert config.status_code == 200, config.text
    (home / "repos").mkdir()
    (home / "repos/star.repo").write_text(config.text)
    dnf(home, f"--setopt=reposdir={home}/repos", "download", "star-1", f"--destdir={home}")
    assert verified(home, home / "star-1-1.1-1.noarch.rpm") == "star-1"


def test_dnf_configured_by_the_recipe(instance, content, home):
    (home / "repos").mkdir()
    (home / "repos/star.repo").write_text(recipe(instance, content.base_path, "dnf: /etc"))
    dnf(home, f"--setopt=reposdir={home}/repos", "download", "star-1", f"--destdir={home}")
    assert verified(home, home / "star-1-1.1-1.noarch.rpm") == "star-1"


def verified(home: Path, file: Path) -> str:
    """Verify a package's digests, and return its name."""
    run(["rpm", "--dbpath", home / "db", "-K", "--nosignature", file], home)
    return run(["rpm", "--dbpath", home / "db", "-qp", "--qf", "%{NAME}", file], home).stdout


def test_dnf_downloads_on_demand(instance, pulp, far, workshop, home):
    """Packages that were not synchronized are fetched from the remote."""
    folder = home / "far"
    folder.mkdir()
    file = Path(shutil.copy(build(workshop, "2"), folder))
    run([Path(sys.executable).with_name("createrepo_c"), folder], home)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        far.files[str(path.relative_to(folder))] = path.read_bytes()
    fields = {"name": Orm.unique(), "url": far.url, "policy": "on_demand"}
    remote = pulp.create("remotes/rpm/rpm/", **fields)["pulp_href"]
    repository = pulp.create("repositories/rpm/rpm/", name=Orm.unique(), autopublish=True)
    href = repository["pulp_href"]
    pulp.task(pulp.http.post(f"{href}sync/", json={"remote": remote}))
    named = {"name": Orm.unique(), "base_path": Orm.unique()}
    base_path = pulp.create("distributions/rpm/rpm/", repository=href, **named)["base_path"]
    assert far.gets[file.name] == 0
    path = ("--repofrompath", f"star,{instance.content_url}{base_path}/", "--repo=star")
    for times in ("first", "second"):
        dnf(home / times, *path, "--nogpgcheck", "download", "star-2", f"--destdir={home}/{times}")
        assert verified(home, home / times / file.name) == "star-2"
    assert far.gets[file.name] == 1
    assert only_pulp_requested(far)
