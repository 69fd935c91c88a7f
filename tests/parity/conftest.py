"""Upstream's own content app beside ours, on the same database and files."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.certificates import Authority
from tests.instance import Instance
from tests.orm import Orm
from tests.server import free_port, running


@pytest.fixture(scope="session")
def upstream(instance: Instance) -> Iterator[str]:
    """The root of upstream's content app."""
    bind = f"127.0.0.1:{free_port()}"
    command = ["pulpcore-content", "--bind", bind, "--workers", "1"]
    with running(instance, command, f"http://{bind}") as server:
        yield server.content_url


@pytest.fixture(scope="session")
def places(instance: Instance) -> Iterator[dict[str, str]]:
    """Base paths of distributions of every kind, by the names that the table of requests uses."""
    pulp = instance.pulp()
    orm = Orm()
    top = orm.unique()
    files = {"a.txt": b"0123456789", "dir/b.xml.gz": b"bb", "dir/sub/c": b"c" * 3000}
    files |= {"empty": b"", "co:lon/per%cent é.rpm": b"name"}
    repository = pulp.repository({"a.txt": b"0123456789"})
    old = pulp.upload(repository, "old.txt", b"old")
    pulp.publish(repository)
    superseded = pulp.distribute(f"{top}/superseded", repository=repository)
    pulp.remove(repository, old)
    pulp.publish(repository)
    version = orm.version(files)
    header_guard = pulp.create(
        "contentguards/core/header/", name=orm.unique(), header_name="x-key", header_value="open"
    )
    rbac_guard = pulp.create("contentguards/core/rbac/", name=orm.unique())
    composite_guard = pulp.create(
        "contentguards/core/composite/",
        name=orm.unique(),
        guards=[header_guard["pulp_href"], rbac_guard["pulp_href"]],
    )
    redirect_guard = pulp.create("contentguards/core/content_redirect/", name=orm.unique())
    authority = Authority()
    x509_guard = pulp.create(
        "contentguards/certguard/x509/", name=orm.unique(), ca_certificate=authority.pem
    )
    published = orm.publication(files | {"page/index.html": b"<p>page</p>"})
    yield {
        "top": top,
        "superseded": superseded,
        "published": orm.distribution(f"{top}/published", publication=published),
        "through": orm.distribution(
            f"{top}/through", publication=orm.publication({"meta/data": b"m"}, version)
        ),
        "version": orm.distribution(
            f"{top}/deep/version", from_publication=False, repository_version=version
        ),
        "page": orm.distribution(
            f"{top}/page",
            from_publication=False,
            repository_version=orm.version({"index.html": b"<p>root</p>", "d/index.html": b"d"}),
        ),
        "nothing": orm.distribution(f"{top}/nothing"),
        "unpublished": orm.distribution(
            f"{top}/unpublished", repository_version=orm.version({"a.txt": b"x"})
        ),
        "hidden": orm.distribution(f"{top}/hidden/dist", hidden=True, publication=published),
        "header": pulp.distribute(
            f"{top}/header", repository=repository, content_guard=header_guard["pulp_href"]
        ),
        "rbac": pulp.distribute(
            f"{top}/rbac", repository=repository, content_guard=rbac_guard["pulp_href"]
        ),
        "composite": pulp.distribute(
            f"{top}/composite", repository=repository, content_guard=composite_guard["pulp_href"]
        ),
        "x509": pulp.distribute(
            f"{top}/x509", repository=repository, content_guard=x509_guard["pulp_href"]
        ),
        "signed": pulp.distribute(
            f"{top}/signed", repository=repository, content_guard=redirect_guard["pulp_href"]
        )
        + "/a.txt?expires=99999999999&validate_token=00:00",
        "certificate": quote(authority.issue()),
        "sha256": "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882",
        "basic": pulp.auth._auth_header,
    }
    orm.cleanup()
    pulp.cleanup()
