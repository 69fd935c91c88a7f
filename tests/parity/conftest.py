"""Fixtures of the parity tests: upstream's content app beside ours, on one database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
import pytest

from pulpcore.app.contexts import with_domain
from pulpcore.constants import CHECKPOINT_TS_FORMAT
from tests.functional.conftest import app  # noqa: F401
from tests.support.bridged import installed
from tests.support.certificates import Authority
from tests.support.instance import Instance
from tests.support.orm import Orm, artifact
from tests.support.pulp import Pulp
from tests.support.remote_server import serving_upstream
from tests.support.server import Server, serving_theirs


@pytest.fixture(scope="session")
def upstream(instance: Instance) -> Iterator[str]:
    """The content root of upstream's content app."""
    with serving_theirs(instance) as server:
        yield server.content_url


@pytest.fixture(scope="session")
def theirs(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Upstream's content app with the legacy plugin of `tests/support/bridged`."""
    with serving_theirs(instance, **installed(tmp_path_factory.mktemp("notes"))) as server:
        yield server


def publish_checkpoint(pulp: Pulp, repository: str) -> datetime:
    """Create a checkpoint dated yesterday, and return its time."""
    from pulpcore.app.models import Publication

    href = pulp.publish(repository, checkpoint=True)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    Publication.objects.filter(pk=href.split("/")[-2]).update(pulp_created=yesterday)
    return yesterday


def signed_link(data: bytes) -> str:
    """Return the REST API's signed signed_link to an artifact, relative to the content root."""
    from pulpcore.app.models import ArtifactDistribution

    url = ArtifactDistribution.objects.get().artifact_url(artifact(data))
    return url.partition("/pulp/content/")[2]


@pytest.fixture(scope="session")
def mirror(instance: Instance) -> Iterator[str]:
    """The base path of a repository of files with the policy `streamed`."""
    pulp = instance.pulp()
    with serving_upstream() as server:
        server.files = {"far.txt": b"9876543210", "gone": b"gone"}
        server.files["PULP_MANIFEST"] = server.manifest("far.txt", "gone")
        url = f"{server.url}PULP_MANIFEST"
        remote = pulp.create(
            "remotes/file/file/", name=Orm.unique(), url=url, policy="streamed", max_retries=1
        )
        repository = pulp.repository(autopublish=True)
        sync = {"remote": remote["pulp_href"]}
        pulp.task(pulp.http.post(f"{repository}sync/", json=sync))
        del server.files["gone"]
        yield pulp.distribute(repository=repository)
        pulp.cleanup()


@pytest.fixture(scope="session")
def values(instance: Instance, mirror: str, upstream: str) -> Iterator[dict[str, str]]:
    """Base paths of distributions of every kind and other values, by their names in `ROWS`."""
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
    times = publish_checkpoint(pulp, repository)
    keyring, cert = pulp.keyring()
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
    base = orm.distribution(f"{top}/published", publication=published)
    yield {
        "top": top,
        "mirror": mirror,
        "far": "7619ee8cea49187f309616e30ecf54be072259b43760f1f550a644945d5572f2",
        "superseded": superseded,
        "published": base,
        "old_tag": httpx.head(f"{upstream}{base}/a.txt").headers["etag"],
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
        "static": orm.distribution(
            f"{top}/static",
            publication=orm.publication({}, orm.version({"simple/index.html": b"<p>simple</p>"})),
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
        "checkpoint": pulp.distribute(f"{top}/check", repository=repository, checkpoint=True),
        "time": times.strftime(CHECKPOINT_TS_FORMAT),
        "later": (times + timedelta(minutes=1)).strftime(CHECKPOINT_TS_FORMAT),
        "earlier": (times - timedelta(minutes=1)).strftime(CHECKPOINT_TS_FORMAT),
        "keys": pulp.create(
            "distributions/core/openpgp/",
            name=orm.unique(),
            base_path=f"{top}/keys",
            repository=keyring,
        )["base_path"],
        "key": cert.fingerprint[-16:],
        "artifact": signed_link(b"0123456789"),
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


@pytest.fixture(scope="session")
def domain_upstream(instance: Instance) -> Iterator[str]:
    """The content root of upstream's content app with domains."""
    with serving_theirs(instance, PULP_DOMAIN_ENABLED="true") as server:
        yield server.content_url


@pytest.fixture(scope="session")
def domain_instance(domains: Server) -> str:
    """The content root of our content app with domains."""
    return domains.content_url


@pytest.fixture(scope="session")
def domain_values(values: dict[str, str], tmp_path_factory) -> Iterator[dict[str, str]]:
    """`values` of the default domain, and a distribution in a domain with its own storage."""
    orm = Orm()
    location = tmp_path_factory.mktemp("domain")
    domain = orm.domain(location=str(location))
    with with_domain(domain):
        inside = orm.distribution(publication=orm.publication({"own.txt": b"of the domain"}))
    assert any(path.is_file() for path in location.rglob("*"))
    yield {**values, "domain": domain.name, "inside": inside}
    with with_domain(domain):
        orm.cleanup()
        domain.delete()
