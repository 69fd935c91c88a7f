"""The example plugin of the documentation, installed with pip."""

import hashlib
import json

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.schemas import APIOperation

from tests.support.conformance import conform, with_values
from tests.support.pulp import unique
from tests.support.server import serving, serving_theirs

pytestmark = pytest.mark.slow

FILES = {"a.txt": b"first", "dir/b.txt": b"second"}


@pytest.fixture(scope="module")
def repository(module_pulp) -> str:
    return module_pulp.repository(FILES)


@pytest.fixture
def base(pulp, repository) -> str:
    """The base path of a distribution of the example plugin."""
    name = unique("shelf")
    pulp.create("distributions/example/example/", name=name, base_path=name, repository=repository)
    return name


def listed_file(path: str) -> dict[str, object]:
    data = FILES[path]
    return {
        "relative_path": path,
        "artifact__sha256": hashlib.sha256(data).hexdigest(),
        "artifact__size": len(data),
    }


def test_example_plugin_serves_files_with_its_headers(content, base):
    response = content.get(f"{base}/dir/b.txt", headers={"User-Agent": "curl/8"})
    assert response.content == b"second"
    assert response.headers["X-Example"] == base
    assert response.headers["X-Example-For"] == "curl"
    assert response.headers["ETag"] == f'"{hashlib.sha256(b"second").hexdigest()}"'


def test_example_plugin_listing_has_usage_and_link_to_its_routes(plugged, content, base):
    page = content.get(f"{base}/").text
    assert f"<pre>curl {plugged.content_url}{base}/api/files</pre>" in page
    assert 'href="api/"' in page
    assert "<section>" not in content.get(f"{base}/dir/").text


def test_example_plugin_route_returns_json(content, base):
    response = content.get(f"{base}/api/files")
    assert response.json() == {"files": [listed_file("a.txt"), listed_file("dir/b.txt")]}
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_example_plugin_route_receives_a_streamed_body(content, base):
    chunks = [bytes([number]) * 100_000 for number in range(50)]
    response = content.post(f"{base}/api/sha256", content=iter(chunks))
    assert response.text == hashlib.sha256(b"".join(chunks)).hexdigest()


def test_example_plugin_route_requires_credentials_for_put_and_delete(content, pulp, base):
    url = f"{base}/api/notes/dir/b.txt"
    assert content.get(url).status_code == 404
    refused = content.put(url, content=b"mine")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert content.put(url, content=b"mine", auth=pulp.auth).status_code == 201
    assert content.put(url, content=b"yours", auth=pulp.auth).status_code == 204
    assert content.get(url).text == "yours"
    assert content.put(url, content=b"x" * 10_001, auth=pulp.auth).status_code == 413
    assert content.delete(url, auth=pulp.auth).status_code == 204
    assert content.get(url).status_code == 404


def test_example_plugin_on_upstream_serves_the_same_by_hooks(plugged, content, base):
    with serving_theirs(plugged) as server:
        root = f"{server.content_url}{base}/"
        assert httpx.get(f"{root}api/files").json() == content.get(f"{base}/api/files").json()
        theirs = httpx.get(f"{root}dir/b.txt")
        assert theirs.content == b"second"
        assert theirs.headers["X-Example"] == base


API = "/pulp/content/{example_example_base_path}/api"


def test_example_plugin_routes_are_in_the_openapi_document(plugged, content, base):
    document = content.get("openapi.json").json()
    validate(document)
    files = document["paths"][f"{API}/files"]["get"]
    assert (files["summary"], files["tags"]) == ("List the files of the repository.", ["example"])
    schema = files["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(content.get(f"{base}/api/files").json(), schema)
    assert schema["properties"]["files"]["items"]["required"]
    notes = document["paths"][f"{API}/notes/{{path}}"]
    assert notes["put"]["responses"].keys() == {"201", "204", "default"}
    assert notes["put"]["requestBody"]["content"].keys() == {"text/plain"}
    assert "/pulp/content/{file_file_base_path}/api/endpoint" in document["paths"], "of pulp_probe"
    assert "/pulp/probe/api/blobs/{digest}" in document["paths"], "mounted by pulp_probe"
    handler = "/pulp/content/{example_example_base_path}/{path}"
    assert handler not in document["paths"], "find_content replaces content_handler"


def test_schema_of_a_process_without_content_has_routes_of_plugins(plugged):
    command = ["pulpcore-manager", "openapi", "--component", "content_star"]
    assert f"{API}/files" in json.loads(plugged.run(command).stdout)["paths"]


@pytest.mark.parametrize("mode", GenerationMode)
def test_example_plugin_routes_conform_to_the_openapi_document(plugged, content, base, mode):
    def is_of_the_plugin(operation: APIOperation) -> bool:
        return "example" in operation.tags

    values = {"example_example_base_path": [base], "path": ["a.txt"]}
    statuses = conform(
        with_values(content.get("openapi.json").json(), values),
        plugged.url,
        mode,
        examples=10,
        headers={"Accept": "application/json"},
        accept=is_of_the_plugin,
    )
    assert {404, 401} <= statuses.keys()  # no note, and no permission to write one
    assert (200 in statuses) == (mode is GenerationMode.POSITIVE)


def test_fault_in_openapi_of_a_plugin_is_logged_and_removes_its_routes_alone(
    plugged, variant, base
):
    environ = variant("content_star.py", '"required": True', '"required": "yes"')
    with serving(plugged, **environ) as server:
        document = httpx.get(f"{server.content_url}openapi.json").json()
        served = httpx.get(f"{server.content_url}{base}/api/files")
        said = server.said()
    validate(document)
    assert not any(path.startswith(API) for path in document["paths"])
    assert "/pulp/probe/api/blobs/{digest}" in document["paths"]
    assert served.status_code == 200
    assert "has no routes of plugin 'example'" in said
