"""pulp_ostree, and ostree."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    commands,
    needs,
    recipe,
    run,
)
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-ostree",
    client="ostree: pull",
)

pytestmark = needs("ostree")


@pytest.fixture(scope="module")
def commit(workshop: Path) -> str:
    """The checksum of a commit on the branch `star` of the repository in `repo`."""
    (workshop / "tree").mkdir()
    (workshop / "tree/hello").write_text("hello")
    run(["ostree", "--repo=repo", "init", "--mode=archive"], workshop)
    run(["ostree", "--repo=repo", "commit", "--branch=star", "tree"], workshop)
    run(["ostree", "--repo=repo", "summary", "-u"], workshop)
    run(["tar", "-cf", "repo.tar", "repo"], workshop)
    return run(["ostree", "--repo=repo", "rev-parse", "star"], workshop).stdout.strip()


@pytest.fixture(scope="module")
def content(api, commit: str, workshop: Path) -> Iterator[Content]:
    """A repository into which one commit was imported."""
    repository = api.create("repositories/ostree/ostree/", name=Orm.unique())["pulp_href"]
    with (workshop / "repo.tar").open("rb") as file:
        artifact = api.http.post(f"{api.root}artifacts/", files={"file": file})
    assert artifact.status_code == 201, artifact.text
    fields = {"artifact": artifact.json()["pulp_href"], "repository_name": "repo"}
    api.task(api.http.post(f"{repository}import_all/", json=fields))
    base_path = api.create(
        "distributions/ostree/ostree/",
        name=Orm.unique(),
        base_path=Orm.unique(),
        repository=repository,
    )["base_path"]
    yield Content(base_path, {"object": f"objects/{commit[:2]}/{commit[2:]}.commit"})


@pytest.mark.parametrize(
    "row",
    [
        Row("/pulp/content/{base}/config", FILE),
        Row("/pulp/content/{base}/summary", FILE),
        Row("/pulp/content/{base}/refs/heads/star", FILE),
        Row("/pulp/content/{base}/{object}", FILE),
        Row("/pulp/content/{base}/{object}", FILE, method="HEAD"),
        Row("/pulp/content/{base}/", "listing page"),
        Row("/pulp/content/{base}/refs/heads/nope", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


def test_ostree_pulls_by_the_recipe(instance, content, commit, home):
    run(["ostree", "--repo=own", "init", "--mode=archive"], home)
    add, pull = commands(recipe(instance, content.base_path, "ostree"), REF="star")
    run([*add, "--repo=own"], home)
    run([*pull, "--repo=own"], home)
    assert run(["ostree", "--repo=own", "cat", commit, "/hello"], home).stdout == "hello"


def test_ostree_pulls(instance, content, commit, home):
    run(["ostree", "--repo=own", "init", "--mode=archive"], home)
    url = f"{instance.content_url}{content.base_path}"
    run(["ostree", "--repo=own", "remote", "add", "--no-gpg-verify", "pulp", url], home)
    run(["ostree", "--repo=own", "pull", "pulp", "star"], home)
    assert run(["ostree", "--repo=own", "rev-parse", "pulp:star"], home).stdout.strip() == commit
    assert run(["ostree", "--repo=own", "cat", commit, "/hello"], home).stdout == "hello"
