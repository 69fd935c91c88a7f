"""The OpenAPI document that the content app serves, and its precedence."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from openapi_spec_validator import validate

from tests.support.pulp import unique
from tests.support.server import Server, serving


@pytest.fixture(scope="module")
def document(content: httpx.Client) -> dict[str, object]:
    return content.get("openapi.json").raise_for_status().json()


def test_openapi_document_of_server_is_valid(document, instance):
    validate(document)
    assert document["info"]["x-pulp-app-versions"]["file"]
    assert "/pulp/content/{base_path}/{path}" in document["paths"]


def test_openapi_yaml_is_the_same_document(content, document):
    response = content.get("openapi.yaml")
    assert response.headers["Content-Type"].startswith("application/yaml")
    assert yaml.safe_load(response.text) == document


@pytest.mark.parametrize("name", ["openapi.json", "openapi.yaml"])
def test_openapi_document_has_etag_and_304(content, name):
    first = content.get(name)
    assert first.status_code == 200
    second = content.get(name, headers={"If-None-Match": first.headers["ETag"]})
    assert (second.status_code, second.content) == (304, b"")
    head = content.head(name)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["ETag"] == first.headers["ETag"]


def test_openapi_document_is_the_same_in_another_process(content, instance):
    with serving(instance) as server:
        other = httpx.get(f"{server.content_url}openapi.json")
    assert other.headers["ETag"] == content.get("openapi.json").headers["ETag"]


def test_openapi_document_accepts_no_other_methods(content):
    response = content.post("openapi.json")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_distribution_named_as_openapi_document_has_precedence(content, orm):
    version = orm.version({"a.txt": b"content"})
    fields = {"from_publication": False, "repository_version": version}
    orm.distribution("openapi.json", **fields)
    redirect = content.get("openapi.json")
    assert (redirect.status_code, redirect.headers["Location"]) == (
        301,
        "/pulp/content/openapi.json/",
    )
    assert content.get("openapi.json/a.txt").content == b"content"
    assert content.get("openapi.yaml").status_code == 200


def test_guarded_distribution_named_as_openapi_document_has_precedence(content, orm):
    from pulpcore.app.models import HeaderContentGuard

    guard = orm.guard(HeaderContentGuard, header_name="x", header_value="y")
    orm.distribution("openapi.yaml", content_guard=guard)
    assert content.get("openapi.yaml").status_code == 403


def test_file_named_openapi_document_is_served(content, orm):
    version = orm.version({"openapi.json": b"mine"})
    base = orm.distribution(from_publication=False, repository_version=version)
    assert content.get(f"{base}/openapi.json").content == b"mine"
    assert content.get(f"{unique('none')}/openapi.json").status_code == 404


def test_openapi_document_of_domains_has_the_domain(domains: Server):
    document = httpx.get(f"{domains.content_url}openapi.json").json()
    validate(document)
    assert "/pulp/content/{pulp_domain}/{base_path}/{path}" in document["paths"]


API_SCHEMA = "/pulp/api/v3/docs/api.json"
FILE = "/pulp/content/{base_path}/{path}"


def fetched(url: str) -> dict[str, Any]:
    return httpx.get(url).raise_for_status().json()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from references(each)


def test_schema_of_the_api_has_content_paths_whose_references_resolve(instance, document):
    schema = fetched(f"{instance.url}{API_SCHEMA}")
    file = schema["paths"][FILE]["get"]
    assert {"$ref": "#/components/parameters/path"} in file["parameters"]
    assert file["responses"] == document["paths"][FILE]["get"]["responses"]
    for reference in set(references(schema)):
        _, kind, name = reference.removeprefix("#/").split("/")
        assert name in schema["components"][kind]


def test_schema_of_the_api_for_clients_has_ids_of_content_operations(instance):
    schema = fetched(f"{instance.url}{API_SCHEMA}?bindings")
    operations = [each for item in schema["paths"].values() for each in item.values()]
    assert schema["paths"][FILE]["get"]["operationId"] == "get_file"
    assert all(each["operationId"] for each in operations)
    assert not any("x-copy-operationId" in each for each in operations)


def test_schema_of_the_api_is_that_of_pulp_by_setting_and_by_component(instance):
    with_content = fetched(f"{instance.url}{API_SCHEMA}")
    with serving(instance, PULP_CONTENT_STAR_IN_API_SCHEMA="false") as server:
        without = fetched(f"{server.url}{API_SCHEMA}")
    assert FILE not in without["paths"]
    assert without["paths"].items() <= with_content["paths"].items()
    component = fetched(f"{instance.url}{API_SCHEMA}?component=core")
    assert FILE not in component["paths"]
