"""Domains with storages of their own, on a Pulp with DOMAIN_ENABLED, through the REST API."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.instance import Instance
from tests.support.pulp import Pulp, unique
from tests.support.stores import Store, azure, s3
from tests.support.template import copy_template

pytestmark = pytest.mark.slow

FILES = {"own.txt": b"of this domain", "dir/b.txt": b"b" * 5000}
FILE_SYSTEM = "pulpcore.app.models.storage.FileSystem"


class DomainInstance(Instance):
    """A Pulp with DOMAIN_ENABLED."""

    login = "/pulp/default/api/v3/login/"

    @property
    def client_environ(self) -> dict[str, str]:
        return {**super().client_environ, "PULP_DOMAIN_ENABLED": "true"}


@pytest.fixture(scope="module")
def domains() -> Iterator[DomainInstance]:
    pulp = DomainInstance.temporary()
    copy_template(pulp.home)
    try:
        yield pulp.start()
        assert pulp.stop() == 0, pulp.said()
    finally:
        pulp.remove()


@pytest.fixture(scope="module", params=[s3, azure], ids=["s3", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An object store; Pulp's API accepts no settings for Google Cloud Storage."""
    with request.param() as running:
        yield running


@pytest.fixture
def pulp(domains: DomainInstance) -> Iterator[Pulp]:
    api = domains.pulp()
    yield api
    api.cleanup()


def distribute_in_domain(pulp: Pulp, domains: DomainInstance, **fields: Any) -> tuple[str, str]:
    """Create a domain with a published repository; return its name and the base path."""
    name = unique("domain")
    created = pulp.http.post("/pulp/default/api/v3/domains/", json={"name": name, **fields})
    assert created.status_code == 201, created.text
    pulp.root = f"/pulp/{name}/api/v3/"
    repository = pulp.repository(FILES)
    return name, pulp.distribute(publication=pulp.publish(repository))


def test_domain_with_its_own_directory_is_served(domains, pulp, tmp_path):
    domain, base = distribute_in_domain(
        pulp,
        domains,
        storage_class=FILE_SYSTEM,
        storage_settings={"MEDIA_ROOT": str(tmp_path)},
    )
    root = f"{domains.content_url}{domain}/"
    for path, data in FILES.items():
        assert httpx.get(f"{root}{base}/{path}").content == data
    assert {path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()} >= {5000}
    listing = httpx.get(root).text
    assert f"<title>Index of /pulp/content/{domain}/</title>" in listing
    assert f'"{base}/"' in listing
    assert base not in httpx.get(f"{domains.content_url}default/").text
    assert httpx.get(f"{domains.content_url}default/{base}/own.txt").status_code == 404


@pytest.mark.parametrize("redirects", [True, False])
def test_domain_with_its_own_object_store_is_served(domains, pulp, store, redirects):
    domain, base = distribute_in_domain(
        pulp,
        domains,
        storage_class=store.storage_class,
        storage_settings=store.settings,
        redirect_to_object_storage=redirects,
    )
    url = f"{domains.content_url}{domain}/{base}/dir/b.txt"
    first = httpx.get(url)
    assert first.status_code == (302 if redirects else 200)
    followed = httpx.get(url, follow_redirects=True)
    assert followed.content == FILES["dir/b.txt"]
    assert 'filename="b.txt"' in followed.headers["Content-Disposition"]
