"""Content in the schema of the REST API."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from openapi_spec_validator import validate

from pulpcore.app.models import OpenPGPDistribution
from pulpcore.content_star.distributions import registry
from pulpcore.content_star.plugin import Route
from pulpcore.content_star.schema.pulp_api import add_content_paths
from tests.unit.test_schema_plugin_routes import PATH, ROOT, register, text

RESPONSES = {"200": {"description": ""}}


@pytest.fixture(autouse=True)
def registrations() -> Iterator[None]:
    claims = registry.registered()
    registry.restore({key: claims[key] for key in claims if key[0] is not OpenPGPDistribution})
    yield
    registry.restore(claims)


def api_schema(bindings: bool = False, **paths: Any) -> dict[str, Any]:
    """Return the schema of an API with `paths`, and with content."""
    result = {
        "openapi": "3.1.1",
        "info": {"title": "Pulp", "version": "1"},
        "paths": {f"/{name}": item for name, item in paths.items()},
        "components": {},
    }
    request = SimpleNamespace(apps=[SimpleNamespace(label="content_star")], bindings=bindings)
    return add_content_paths(result, None, request, False)


def test_api_schema_has_a_parameter_once_that_an_operation_overrides():
    number = {"name": "number", **PATH, "schema": {"type": "integer"}, "description": "Mine."}
    path = {"$ref": "#/components/parameters/path"}
    register(
        Route("/{number}", text, openapi={"parameters": [number]}),
        Route("/a/{path:path}", text, openapi={"parameters": [path]}),
    )
    schema = api_schema()
    validate(schema)
    parameters = schema["paths"][f"{ROOT}/{{number}}"]["get"]["parameters"]
    assert [each["name"] for each in parameters] == ["core_openpgp_base_path", "number"]
    assert parameters[1]["description"] == "Mine."
    assert schema["paths"][f"{ROOT}/a/{{path}}"]["get"]["parameters"][1:] == [path]


@pytest.mark.parametrize("bindings", [False, True])
def test_api_schema_has_unique_ids_and_keeps_those_of_the_api(bindings):
    register(Route("/a", text, openapi={"operationId": "tasks_list"}))
    tasks = {"get": {"operationId": "tasks_list", "responses": RESPONSES}}
    schema = api_schema(bindings, tasks=tasks)
    validate(schema)
    assert schema["paths"]["/tasks"] is tasks
    assert schema["paths"][f"{ROOT}/a"]["get"]["operationId"] == "tasks_list_"


def test_api_schema_has_tags_of_its_own_for_content():
    register(Route("/a", text), Route("/b", text, openapi={"tags": []}))
    content = {"get": {"operationId": "a", "responses": RESPONSES, "tags": ["Content"]}}
    paths = api_schema(content=content)["paths"]
    tags = {tag for item in paths.values() for each in item.values() for tag in each["tags"]}
    assert tags == {
        "Content",
        "Content app",
        "Content app: Content",
        "Content app: Probes",
        "Content app: Schema",
        "Content app: tests",
    }


def test_api_schema_keeps_a_path_of_the_api():
    item = {"get": {"operationId": "a", "responses": RESPONSES}}
    path = "pulp/content/livez"
    assert api_schema(**{path: item})["paths"][f"/{path}"] is item
