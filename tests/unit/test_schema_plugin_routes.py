"""Plugins' routes in the OpenAPI document."""

import json
import logging
import uuid
from collections.abc import Iterator
from functools import partial, partialmethod
from typing import Annotated, Any, TypedDict

import pytest
from django.test import override_settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from openapi_spec_validator import validate
from packaging.version import Version
from pulp_file.app.models import FileDistribution
from rest_framework.authentication import SessionAuthentication
from starlette import routing
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Host, Mount, Router

from pulpcore.app.models import ArtifactDistribution, OpenPGPDistribution
from pulpcore.content_star.distributions import registry
from pulpcore.content_star.plugin import PublicationApp, Route, mount, serves
from pulpcore.content_star.plugin_host import mounts
from pulpcore.content_star.schema.document import openapi_document
from pulpcore.plugin.apps import pulp_plugin_configs

ROOT = "/pulp/content/{core_openpgp_base_path}"


class Thing(TypedDict):
    """A thing."""

    id: int
    tags: list[str]


def blocking(request: Request) -> Annotated[JSONResponse, Thing]:
    """Get a thing.

    It has an id.
    """
    return JSONResponse({"id": 1, "tags": []})


async def text(request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


async def anything(request: Request) -> Response:
    return Response()


async def untyped(request: Request) -> Annotated[JSONResponse, object()]:
    return JSONResponse({})


async def undefined(request: Request) -> "OnlyForTypeCheckers":  # noqa: F821
    return JSONResponse({})


async def described(request: "OnlyForTypeCheckers") -> PlainTextResponse:  # noqa: F821
    return PlainTextResponse("")


async def in_words(request: Request) -> "a list of things":  # noqa: F722
    return JSONResponse([])


class Node(TypedDict):
    """A type that contains itself."""

    below: "list[Node]"


async def recursive(request: Request) -> Annotated[JSONResponse, Node]:
    return JSONResponse({"below": []})


async def circular(request: Request) -> Response:
    return Response()


circular.__wrapped__ = circular  # type: ignore[attr-defined]


async def surrogate(request: Request) -> Response:
    return Response()


surrogate.__doc__ = "Half of a \udc80 pair."

CONTAINS_ITSELF: dict[str, Any] = {}
CONTAINS_ITSELF["x"] = [CONTAINS_ITSELF]

QUERY = {"in": "query", "name": "number", "schema": {"type": "integer"}}
PATH = {"in": "path", "required": True}
RESPONSE = {"$ref": "#/components/responses/File"}
PARAMETER = {"$ref": "#/components/parameters/path"}
WRONG_DEFAULT = {"type": "integer", "default": "x"}
PAGES = {"$ref": "#/components/parameters/cursor"}
ERROR = {"$ref": "#/components/schemas/ContentError"}


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": [QUERY | {"schema": schema}]}


def with_response(**fields: Any) -> dict[str, Any]:
    return {"responses": {"200": {"description": "", **fields}}}


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> PlainTextResponse:
        """Get it."""
        return PlainTextResponse("")

    async def delete(self, request: Request) -> Response:
        """Delete it."""
        return Response()


@pytest.fixture(autouse=True)
def registrations() -> Iterator[None]:
    claims, mounted = registry.registered(), mounts.all_mounted()
    models = (ArtifactDistribution, OpenPGPDistribution)
    registry.restore({key: claims[key] for key in claims if key[0] not in models})
    yield
    registry.restore(claims)
    mounts.restore(mounted)


def register(*routes: Any, model: Any = OpenPGPDistribution, module: str = __name__) -> None:
    """Register a class with `routes`, as the plugin that `module` belongs to."""
    app = type("App", (PublicationApp,), {"routes": routes, "__module__": module})
    serves(model)(app)


def paths() -> dict[str, Any]:
    return openapi_document()["paths"]


def test_openapi_route_has_summary_description_and_type_of_its_handler():
    register(Route("/things/{number:int}", blocking))
    item = paths()[f"{ROOT}/things/{{number}}"]
    operation = item["get"]
    assert (operation["summary"], operation["description"]) == ("Get a thing.", "It has an id.")
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["properties"]["tags"] == {"type": "array", "items": {"type": "string"}}
    assert operation["tags"] == ["tests"]
    assert [each["name"] for each in item["parameters"]] == ["core_openpgp_base_path", "number"]
    assert item["parameters"][1]["schema"]["type"] == "integer"


def test_openapi_route_below_a_mount_has_the_whole_path_and_media_type():
    register(Mount("/api", routes=[Route("/{id:uuid}", text, methods=["GET", "POST"])]))
    item = paths()[f"{ROOT}/api/{{id}}"]
    assert item["parameters"][1]["schema"]["format"] == "uuid"
    assert {"get", "post"} == item.keys() - {"parameters"}
    for method in ("get", "post"):
        assert list(item[method]["responses"]["200"]["content"]) == ["text/plain"]


def test_openapi_of_a_route_replaces_fields_but_the_default_response():
    added = {"summary": "Mine", "responses": {201: {"description": "Made."}}}
    register(Route("/a", text, methods=["PUT"], openapi=added))
    operation = paths()[f"{ROOT}/a"]["put"]
    assert operation["summary"] == "Mine"
    assert operation["responses"].keys() == {"201", "default"}


def test_openapi_of_an_endpoint_class_has_its_methods():
    register(Route("/endpoint", Endpoint))
    item = paths()[f"{ROOT}/endpoint"]
    assert {"get", "delete"} == item.keys() - {"parameters"}
    assert item["delete"]["summary"] == "Delete it."


def test_openapi_of_an_endpoint_class_has_no_method_that_the_route_or_the_class_lacks():
    class Reduced(Endpoint):
        delete = None

    register(Route("/a", Endpoint, methods=["GET"]), Route("/b", Reduced))
    found = paths()
    for path in ("a", "b"):
        assert found[f"{ROOT}/{path}"].keys() - {"parameters"} == {"get"}


def test_openapi_has_head_alone_and_trace_but_no_path_of_other_methods():
    register(*(Route(f"/{each}", text, methods=[each]) for each in ("HEAD", "TRACE", "PROPFIND")))
    found = paths()
    assert found[f"{ROOT}/HEAD"].keys() - {"parameters"} == {"head"}
    assert found[f"{ROOT}/TRACE"].keys() - {"parameters"} == {"trace"}
    assert f"{ROOT}/PROPFIND" not in found


def test_openapi_has_routes_of_a_host():
    register(Host("pulp.example", Router([Route("/a", text)])))
    assert "get" in paths()[f"{ROOT}/a"]


def test_routes_of_a_host_that_block_are_refused():
    with pytest.raises(TypeError, match="blocks"):
        register(Host("pulp.example", Router([routing.Route("/a", blocking)])))


def test_openapi_path_is_percent_encoded():
    register(Route("/ä b?c#d/{x}", text))
    mount("/pulp/ä b/", [Route("/{x}", text)])
    document = openapi_document()
    validate(document)
    assert "/pulp/%C3%A4%20b/{x}" in document["paths"]
    operation = document["paths"][f"{ROOT}/%C3%A4%20b%3Fc%23d/{{x}}"]["get"]
    assert operation["operationId"] == "get_tests_core_openpgp_base_path_ä_b_c_d_x"


def test_openapi_has_no_route_that_is_not_in_the_schema():
    register(Route("/hidden", text, include_in_schema=False), Route("/shown", anything))
    found = paths()
    assert f"{ROOT}/shown" in found
    assert f"{ROOT}/hidden" not in found


def test_openapi_has_the_first_of_two_routes_and_of_two_classes():
    register(Route("/a", blocking), Route("/a", text))
    app = registry.app_of(OpenPGPDistribution)
    serves(OpenPGPDistribution, checkpoint=True)(app)
    assert paths()[f"{ROOT}/a"]["get"]["summary"] == "Get a thing."


def test_openapi_has_content_handler_of_a_model_at_any_path(monkeypatch):
    def content_handler(self: Any, path: str) -> None:
        """Return a generated file."""

    monkeypatch.setattr(FileDistribution, "content_handler", content_handler)
    operation = paths()["/pulp/content/{file_file_base_path}/{path}"]["get"]
    assert operation["summary"] == "Return a generated file."
    assert operation["tags"] == ["file"]
    assert operation["responses"].keys() == {"200", "default"}
    validate(openapi_document())


def test_openapi_has_no_content_handler_that_find_content_replaces(monkeypatch):
    class App(PublicationApp):
        def find_content(self, path: str) -> None:
            return None

    monkeypatch.setattr(FileDistribution, "content_handler", lambda self, path: None)
    assert [path for path in paths() if "{file_" in path]
    serves(FileDistribution)(App)
    assert not [path for path in paths() if "{file_" in path]


class Raising:
    """A descriptor that cannot be read from the class."""

    def __get__(self, instance: object, owner: type) -> object:
        raise AttributeError("no content_handler of a class")


class Unreadable:
    """A callable without a name."""

    def __call__(self, path: str) -> None: ...

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize("make", [Raising, Unreadable])
def test_content_handler_that_cannot_be_read_removes_routes_of_its_plugin_alone(make, caplog):
    register(Route("/a", text))
    register(Route("/b", text), model=ArtifactDistribution, module="pulp_file.app.star")
    # Not by monkeypatch, which would read it.
    FileDistribution.content_handler = make()
    try:
        found = paths()
    finally:
        del FileDistribution.content_handler
    assert f"{ROOT}/a" in found
    assert not [path for path in found if "{file_" in path or path.endswith("/b")]
    assert "no routes of plugin 'file': no " in caplog.text


@pytest.mark.parametrize(
    "handler",
    [
        property(lambda self: None),
        partial(lambda self, path: None),
        partialmethod(lambda self, path: None),
        classmethod(lambda cls, path: None),
        text,
        type("Callable", (), {"__call__": lambda self, path: None})(),
    ],
)
def test_content_handler_may_be_of_any_kind(handler, monkeypatch, caplog):
    monkeypatch.setattr(FileDistribution, "content_handler", handler)
    assert "/pulp/content/{file_file_base_path}/{path}" in paths()
    assert not caplog.records


def test_openapi_has_no_content_handler_of_models_of_pulpcore():
    assert not [path for path in paths() if "{core_" in path]


def test_openapi_with_a_value_on_two_branches_of_each_level_is_left_out(caplog):
    value: dict[str, Any] = {}
    for _ in range(25):
        value = {"a": value, "b": value}
    register(Route("/many", text, openapi={"x-many": value}))
    with caplog.at_level(logging.ERROR):
        assert f"{ROOT}/many" not in paths()
    assert "over 100000 objects" in caplog.text


def test_openapi_with_nested_tuples_is_left_out(caplog):
    value: tuple[Any, ...] = ()
    for _ in range(25):
        value = (value, value)
    register(Route("/many", text, openapi={"x-many": value}))
    with caplog.at_level(logging.ERROR):
        assert f"{ROOT}/many" not in paths()
    assert "over 100000 objects" in caplog.text


def test_reason_for_a_fault_in_openapi_is_cut(caplog):
    schema = {"type": "integer", "default": "x" * 100_000}
    register(Route("/a", text, openapi=with_schema(schema)))
    with caplog.at_level(logging.ERROR):
        paths()
    (record,) = (each for each in caplog.records if "OpenAPI" in each.message)
    assert "the default 'xxx" in record.message
    assert len(record.message) < 1000


def nested(key: str, levels: int) -> dict[str, Any]:
    """A schema whose evaluation takes twice as long with each level."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"allOf": [schema], key: False}
    return schema


@pytest.mark.parametrize("key", ["unevaluatedProperties", "unevaluatedItems"])
def test_openapi_default_is_not_evaluated_by_slow_fields(key):
    value: Any = {"a": 1} if key == "unevaluatedProperties" else [1]
    register(Route("/slow", text, openapi=with_schema({"default": value, **nested(key, 40)})))
    assert f"{ROOT}/slow" in paths()


def test_openapi_default_is_not_matched_with_its_pattern():
    schema = {"type": "string", "pattern": "^(a+)+$", "default": "a" * 40 + "!"}
    parameter = {"in": "query", "name": "q", "schema": schema}
    register(Route("/slow", text, openapi={"parameters": [parameter]}))
    assert f"{ROOT}/slow" in paths()


def test_openapi_has_unique_operation_ids():
    claim = {"operationId": "get_file"}
    register(Route("/a-b", text), Route("/a_b", text), Route("/c", text, openapi=claim))
    register(Route("/a-b", text), model=ArtifactDistribution)
    document = openapi_document()
    validate(document)
    assert document["paths"][f"{ROOT}/c"]["get"]["operationId"] == "get_file_"


@pytest.mark.parametrize("domains", [False, True])
def test_openapi_has_mounted_routes_without_guards(domains):
    prefix = f"/pulp/{uuid.uuid4().hex}/"
    with override_settings(DOMAIN_ENABLED=domains):
        mount(prefix, [Route("/token", text)])
        item = paths()[f"{prefix}{'{pulp_domain}/' if domains else ''}token"]
    assert item["get"]["tags"] == ["tests"]
    assert {"basicAuth": []} in item["get"]["security"]
    assert {"signedUrl": []} not in item["get"]["security"]


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (Route("/bad", text, openapi={"responses": 5}), "not a mapping"),
        (Route("/bad", text, openapi={"parameters": "many"}), "'many'"),
        (Route("/bad", text, openapi={"tags": {1, 2}}), "not JSON serializable"),
        (Route("/bad", text, openapi={"tags": "text"}), "text"),
        (
            Route(
                "/bad",
                text,
                openapi={"requestBody": {"content": {"text/plain": {"schema": {"type": "strin"}}}}},
            ),
            "strin",
        ),
        (
            Route(
                "/bad",
                text,
                openapi={"responses": {"200": {"$ref": "#/components/responses/None"}}},
            ),
            "refers to nothing",
        ),
        (Route("/bad", untyped), "has no JSON Schema"),
        (Route("/bad", recursive), "contains itself"),
        (Route("/bad", text, openapi={"x-a": float("nan")}), "not JSON compliant"),
        (Route("/bad", text, openapi={"x-a": json.loads("[" * 400 + "]" * 400)}), "levels deep"),
        (Route("/bad", text, openapi={"security": [{"other": []}]}), "security scheme 'other'"),
        (Route("/ba}d", text), "brace"),
        (Route("/bad/{1}", text), "brace"),
        (Route("/bad/{ä}", text), "brace"),
        (Route("/bad", text, openapi={"parameters": [PAGES, PAGES]}), "parameter twice"),
        (Route("/bad", text, openapi={"parameters": [PARAMETER]}), "has no parameter path"),
        (Route("/bad", text, openapi={"requestBody": ERROR}), "is none of the components"),
        (Route("/bad", text, openapi={"callbacks": {"a": ERROR}}), "is none of the components"),
        (Route("/bad", text, openapi=with_response(links={"a": ERROR})), "is none of the comp"),
        (
            Route(
                "/bad",
                text,
                openapi=with_response(content={"text/plain": {"examples": {"a": ERROR}}}),
            ),
            "is none of the components",
        ),
        (Route("/bad", text, openapi=with_schema({"items": RESPONSE})), "is none of the schemas"),
        (
            Route("/bad", text, openapi=with_schema({"properties": {"example": RESPONSE}})),
            "is none of the schemas",
        ),
        (Route("/bad", text, openapi=with_schema({"$id": "https://a.example"})), "has $id"),
        (Route("/bad", text, openapi=with_schema({"items": {"$schema": "https://a"}})), "has $sc"),
        (Route("/bad", text, openapi=with_schema({"$dynamicRef": "#a"})), "has $dynamicRef"),
        (Route("/bad", text, openapi=with_schema({"items": WRONG_DEFAULT})), "the default 'x'"),
        (
            Route("/bad", text, openapi=with_schema({"properties": {"a": WRONG_DEFAULT}})),
            "the default 'x'",
        ),
        (
            Route("/bad", text, openapi=with_schema({"format": "date", "default": "x"})),
            "default 'x'",
        ),
        (
            Route("/bad", text, openapi=with_schema({"format": "int32", "default": 2**31})),
            "the default 2147483648",
        ),
        (Route("/bad", text, openapi={"parameters": [QUERY, QUERY]}), "parameter twice"),
        (Route("/bad", text, openapi={"parameters": [QUERY | PATH]}), "has no parameter number"),
        (
            Route("/bad", text, openapi={"parameters": [QUERY | {"schema": WRONG_DEFAULT}]}),
            "the default 'x'",
        ),
        (Route("/bad", circular), "wrapper loop"),
        (Route("/bad", text, openapi={"description": "\ud800"}), "surrogates not allowed"),
        (Route("/bad", text, openapi={"x-\udfff": 1}), "surrogates not allowed"),
        (Route("/bad", surrogate), "surrogates not allowed"),
        (Route("/bad", text, openapi={"description": "x" * 5_000_000}), "over 4194304 bytes"),
        (Route("/bad", text, openapi={"x-a": list(range(2000))}), "array of over 1000 values"),
        (Route("/bad", text, openapi=with_schema({"enum": ({},) * 2000})), "array of over 1000"),
        (Route("/bad", text, openapi=lambda: {}), "not iterable"),
        (Route("/bad", text, openapi=["tags"]), "length"),
        (Route("/bad", text, openapi=Unreadable()), "no "),
        (Route("/bad", text, openapi={"x-a": {(1, 2): 3}}), "keys must be"),
        (Route("/bad", text, openapi={"x-a": 10**5000}), "limit"),
        (Route("/bad", text, openapi={"x-a": b"bytes"}), "not JSON serializable"),
        (Route("/bad", text, openapi={"x-a": CONTAINS_ITSELF}), "levels deep"),
        (Route("/bad", text, openapi={"parameters": [RESPONSE]}), "is none of the parameters"),
        (Route("/bad", text, openapi={"responses": {"200": PARAMETER}}), "is none of the respo"),
        (
            Route("/bad", text, openapi={"parameters": [QUERY | {"schema": RESPONSE}]}),
            "is none of the schemas",
        ),
    ],
)
def test_fault_in_openapi_of_a_plugin_removes_its_routes_alone(route, reason, caplog):
    register(Route("/good", text), route)
    register(Route("/other", text), model=ArtifactDistribution, module="pulp_file.app.star")
    with caplog.at_level(logging.ERROR):
        found = paths()
    assert "/pulp/content/{core_artifact_base_path}/other" in found
    assert not any(path.startswith(f"{ROOT}/") for path in found)
    (record,) = (each for each in caplog.records if "OpenAPI" in each.message)
    assert "plugin 'tests'" in record.message
    assert reason in record.message


def test_openapi_properties_and_links_may_have_names_of_fields():
    types = {name: {"type": "string"} for name in ("parameters", "security", "schema", "responses")}
    link = {"operationId": "get_file", "parameters": {"path": "$response.body#/path"}}
    response = {
        "description": "Any names.",
        "content": {"application/json": {"schema": {"type": "object", "properties": types}}},
        "links": {"file": link},
    }
    register(Route("/a", text, openapi={"responses": {"200": response}}))
    document = openapi_document()
    validate(document)
    assert f"{ROOT}/a" in document["paths"]


def test_openapi_example_may_have_any_names():
    example = {"application/json": {"example": {"$ref": "other", "schema": "text"}}}
    response = {"200": {"description": "An example.", "content": example}}
    register(Route("/a", text, openapi={"responses": response}))
    assert f"{ROOT}/a" in paths()


def test_openapi_of_mounted_routes_with_a_circular_handler_is_left_out():
    mount("/pulp/circular/", [Route("/a", circular)])
    assert "/pulp/content/{base_path}/{path}" in paths()


class OfNoModule:
    """An asynchronous handler whose module cannot be read."""

    async def __call__(self, request: Request) -> Response:
        return Response()

    @property
    def __module__(self) -> str:  # type: ignore[override]
        raise RuntimeError("no module")


def test_mounted_routes_whose_plugin_cannot_be_read_are_left_out_alone(caplog):
    prefix = f"/pulp/{uuid.uuid4().hex}/"
    mount(prefix, [Route("/a", OfNoModule())])
    register(Route("/b", text))
    found = paths()
    assert f"{ROOT}/b" in found
    assert f"{prefix}a" not in found
    assert f"no routes of plugin '{prefix}': no module" in caplog.text


def test_version_of_a_plugin_may_be_an_object(monkeypatch):
    config = next(app for app in pulp_plugin_configs() if app.label == "file")
    monkeypatch.setattr(config, "version", Version("1.2.3"))
    versions = openapi_document()["info"]["x-pulp-app-versions"]
    assert versions["file"] == "1.2.3"


def test_openapi_of_an_authentication_that_fails_has_no_scheme(monkeypatch, caplog):
    class Extension(OpenApiAuthenticationExtension):
        target_class = SessionAuthentication
        name = "broken"
        priority = 99

        def get_security_definition(self, auto_schema):
            return auto_schema.view

    try:
        assert "broken" not in openapi_document()["components"]["securitySchemes"]
        assert "SessionAuthentication" in caplog.text
    finally:
        OpenApiAuthenticationExtension._registry.remove(Extension)


@pytest.mark.parametrize("handler", [undefined, in_words])
def test_openapi_of_an_annotation_that_is_no_type_at_run_time_has_no_type(handler):
    register(Route("/a", handler))
    operation = paths()[f"{ROOT}/a"]["get"]
    assert operation["responses"]["200"]["content"] == {"*/*": {"schema": {}}}


def test_openapi_has_the_returned_type_though_others_are_for_type_checkers():
    register(Route("/a", described))
    operation = paths()[f"{ROOT}/a"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/plain"]


def test_openapi_properties_named_as_fields_of_schemas_have_schemas():
    names = ("$id", "default", "enum", "examples")
    properties = {name: {"type": "integer", "default": 1} for name in names}
    register(Route("/a", text, openapi=with_schema({"type": "object", "properties": properties})))
    document = openapi_document()
    validate(document)
    assert f"{ROOT}/a" in document["paths"]
