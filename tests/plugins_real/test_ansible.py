"""pulp_ansible, and ansible-galaxy."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    check_internal_redirect,
    client_of,
    commands,
    recipe,
    run,
    upload,
)
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-ansible",
    client="ansible-galaxy: collection download and install, by Galaxy's API, whose redirects"
    " are served in place",
)
GALAXY = Path(sys.executable).with_name("ansible-galaxy")
GALAXY_YML = """\
namespace: star
name: hello
version: 1.0.0
readme: README.md
authors: [Somebody]
description: A collection of the tests
license: [MIT]
tags: [tools]
repository: https://example.org
"""


@pytest.fixture(scope="module")
def collection(workshop: Path) -> Path:
    folder = workshop / "hello"
    (folder / "meta").mkdir(parents=True)
    (folder / "galaxy.yml").write_text(GALAXY_YML)
    (folder / "README.md").write_text("# Hello\n")
    (folder / "meta/runtime.yml").write_text('requires_ansible: ">=2.15.0"\n')
    run([GALAXY, "collection", "build", folder], workshop)
    return workshop / "star-hello-1.0.0.tar.gz"


@pytest.fixture(scope="module")
def content(api, collection: Path) -> Iterator[Content]:
    """A repository of one collection."""
    repository = api.create("repositories/ansible/ansible/", name=Orm.unique())["pulp_href"]
    upload(api, "ansible/collection_versions/", collection, repository=repository)
    base_path = api.create(
        "distributions/ansible/ansible/",
        name=Orm.unique(),
        base_path=Orm.unique(),
        repository=repository,
    )["base_path"]
    yield Content(base_path)


@pytest.mark.parametrize(
    "row",
    [
        Row("/pulp/content/{base}/star-hello-1.0.0.tar.gz", FILE),
        Row("/pulp/content/{base}/star-hello-1.0.0.tar.gz", FILE, method="HEAD"),
        Row("/pulp/content/{base}/star-hello-1.0.0.tar.gz", FILE, {"Range": "bytes=9-"}),
        Row("/pulp/content/{base}/", "listing page"),
        Row("/pulp/content/{base}/star-hello-2.0.0.tar.gz", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


def galaxy(origin: str, instance, content: Content, home: Path, *arguments: str) -> None:
    settings = {
        "ANSIBLE_HOME": str(home / "ansible"),
        "ANSIBLE_GALAXY_SERVER_LIST": "star",
        "ANSIBLE_GALAXY_SERVER_STAR_URL": f"{origin}/pulp_ansible/galaxy/{content.base_path}/api/",
        "ANSIBLE_GALAXY_SERVER_STAR_USERNAME": instance.username,
        "ANSIBLE_GALAXY_SERVER_STAR_PASSWORD": instance.password,
    }
    run([GALAXY, "collection", *arguments, "star.hello"], home, **settings)


def test_ansible_galaxy_downloads(origin, instance, content, collection, home):
    galaxy(origin, instance, content, home, "download", "-p", str(home))
    assert (home / collection.name).read_bytes() == collection.read_bytes()


def test_ansible_galaxy_installs(instance, content, home):
    galaxy(instance.url, instance, content, home, "install", "-p", str(home / "collections"))
    installed = home / "collections/ansible_collections/star/hello/README.md"
    assert installed.read_text() == "# Hello\n"


def test_ansible_galaxy_installs_by_the_recipe(instance, content, home):
    """The Galaxy API asks for a password here, which the recipe does not have."""
    text = recipe(instance, content.base_path, "ansible-galaxy")
    [[_galaxy, *command]] = commands(text, **{"NAMESPACE.NAME": "star.hello"})
    settings = {
        "ANSIBLE_HOME": str(home / "ansible"),
        "ANSIBLE_GALAXY_SERVER_LIST": "star",
        "ANSIBLE_GALAXY_SERVER_STAR_URL": command.pop(command.index("--server") + 1),
        "ANSIBLE_GALAXY_SERVER_STAR_USERNAME": instance.username,
        "ANSIBLE_GALAXY_SERVER_STAR_PASSWORD": instance.password,
    }
    command.remove("--server")
    run([GALAXY, *command, "-p", str(home / "collections")], home, **settings)
    assert (home / "collections/ansible_collections/star/hello/README.md").exists()


def test_internal_redirect_of_the_galaxy_api(instance, redirecting, content, collection):
    """The Galaxy API redirects clients to content."""
    path = f"/pulp_ansible/galaxy/{content.base_path}/api/v3/plugin/ansible/content/"
    path += f"{content.base_path}/collections/artifacts/{collection.name}"
    auth = (instance.username, instance.password)
    here, there = client_of(instance.url, auth=auth), client_of(redirecting.url, auth=auth)
    assert check_internal_redirect(path, here, there) == collection.read_bytes()
