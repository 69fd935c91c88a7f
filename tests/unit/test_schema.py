"""The OpenAPI document of the content app."""

import asyncio
from typing import Literal, TypedDict

import httpx
import jsonschema
import pytest
from django.test import override_settings
from drf_spectacular.validation import validate_schema
from openapi_spec_validator import validate
from rest_framework.views import APIView
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from pulpcore.app.authentication import BasicAuthentication, JSONHeaderRemoteAuthentication
from pulpcore.content_star.schema import endpoint
from pulpcore.content_star.schema.document import openapi_document
from pulpcore.content_star.schema.endpoint import Schema
from pulpcore.content_star.schema.specification import validate_document
from pulpcore.content_star.schema.types import json_schema


@pytest.mark.parametrize("domains", [False, True])
def test_openapi_document_is_valid(domains):
    with override_settings(DOMAIN_ENABLED=domains):
        validate(openapi_document())


@pytest.mark.parametrize(
    "part", [{}, {"paths": {"/": 1}}, {"components": {"schemas": []}}, {"x": 1}]
)
def test_openapi_document_is_validated_as_by_drf_spectacular(part):
    document = {"openapi": "3.1.0", "info": {"title": "a", "version": "1"}, "paths": {}, **part}
    results = []
    for validated in (validate_document, validate_schema):
        try:
            results.append(validated(document))
        except jsonschema.ValidationError as error:
            results.append(str(error))
    assert results[0] == results[1]
    assert (results[0] is None) == (part == {})


def test_openapi_document_marks_the_domain_for_clients_that_have_a_default():
    assert openapi_document()["components"]["parameters"]["pulp_domain"]["x-isDomain"] is True


def test_openapi_document_describes_each_header():
    with override_settings(CONTENT_STAR_CORS=True):
        headers = openapi_document()["components"]["headers"]
    assert "ETag" in headers
    assert [name for name, header in headers.items() if not header["description"]] == []


@pytest.mark.parametrize("is_on", [False, True])
def test_openapi_document_has_cors_headers_where_cors_is_on(is_on):
    with override_settings(CONTENT_STAR_CORS=is_on):
        responses = openapi_document()["components"]["responses"]
    for name in ("File", "PartialContent", "Directory", "NotModified", "Options"):
        assert ("Access-Control-Allow-Origin" in responses[name]["headers"]) == is_on


def test_openapi_document_has_security_schemes_of_authentication_and_guards():
    document = openapi_document()
    schemes = document["components"]["securitySchemes"]
    assert schemes["basicAuth"] == {"type": "http", "scheme": "basic"}
    assert schemes["cookieAuth"]["name"] == "sessionid"
    assert schemes["clientCertificate"]["name"] == "X-CLIENT-CERT"
    assert schemes["signedUrl"]["in"] == "query"
    file = document["paths"]["/pulp/content/{base_path}/{path}"]["get"]
    assert {name for each in file["security"] for name in each} == set(schemes)
    assert {} in file["security"]  # content may have no guard


def test_openapi_document_has_no_security_scheme_of_a_setting_that_is_empty(monkeypatch, caplog):
    """The default of AUTHENTICATION_JSON_HEADER_OPENAPI_SECURITY_SCHEME."""
    classes = [JSONHeaderRemoteAuthentication, BasicAuthentication]
    monkeypatch.setattr(APIView, "authentication_classes", classes)
    document = openapi_document()
    validate(document)
    schemes = document["components"]["securitySchemes"]
    assert "basicAuth" in schemes
    assert "json_header_remote_authentication" not in schemes
    (record,) = caplog.records
    assert "no security scheme of JSONHeaderRemoteAuthentication" in record.message
    scheme = {"type": "apiKey", "in": "header", "name": "X-User"}
    with override_settings(AUTHENTICATION_JSON_HEADER_OPENAPI_SECURITY_SCHEME=scheme):
        schemes = openapi_document()["components"]["securitySchemes"]
    assert schemes["json_header_remote_authentication"] == scheme


def test_openapi_document_has_the_origin_and_root_path_as_its_server():
    with override_settings(CONTENT_ORIGIN=None):
        assert openapi_document()["servers"] == [{"url": "/"}]
        assert openapi_document("/behind")["servers"] == [{"url": "/behind"}]
    with override_settings(CONTENT_ORIGIN="https://pulp.example/"):
        assert openapi_document()["servers"] == [{"url": "https://pulp.example"}]
        assert openapi_document("/behind")["servers"] == [{"url": "https://pulp.example/behind"}]


def test_openapi_document_has_options_of_each_path_that_answers_it():
    paths = openapi_document()["paths"]
    assert [path for path in paths if "options" not in paths[path]] == []


def test_openapi_document_has_no_content_of_successful_head():
    document = openapi_document()
    named = document["components"]["responses"]
    for item in document["paths"].values():
        reference = item["head"]["responses"]["200"]["$ref"]
        assert "content" not in named[reference.rpartition("/")[2]]


def test_openapi_document_prefers_json_and_names_its_schemas():
    """Generators of clients return the type of the first media type, and name what has no name."""
    responses = openapi_document()["components"]["responses"].values()
    contents = [
        each["content"] for each in responses if "application/json" in each.get("content", {})
    ]
    assert contents
    for content in contents:
        assert next(iter(content)) in ("application/json", "*/*")
        assert content["application/json"]["schema"].keys() in ({"$ref"}, {"type"})


def test_json_schema_of_typed_dict_has_null_and_choices():
    class Example(TypedDict):
        size: int | None
        kind: Literal["a", "b"]

    assert json_schema(Example)["properties"] == {
        "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "kind": {"type": "string", "enum": ["a", "b"]},
    }
    with pytest.raises(TypeError, match="has no JSON Schema"):
        json_schema(object())


def test_openapi_document_is_built_once_for_concurrent_and_later_requests(monkeypatch):
    built: list[str] = []

    def build(root_path: str) -> dict[str, object]:
        built.append(root_path)
        return {"openapi": "3.1.0"}

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(404)

    async def request() -> list[str]:
        transport = httpx.ASGITransport(Schema(not_found, "/pulp/content/"))
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            urls = [f"/pulp/content/openapi.{form}" for form in ("json", "yaml")] * 3
            responses = await asyncio.gather(*map(client.get, urls))
            return [response.text for response in (*responses, await client.get(urls[0]))]

    monkeypatch.setattr(endpoint, "openapi_document", build)
    texts = asyncio.run(request())
    assert set(texts) == {'{"openapi":"3.1.0"}', "openapi: 3.1.0\n"}
    assert built == [""]
