"""A check of the tests' HTTP client: content apps send what the OpenAPI document allows.

Each response of a uvicorn below the content prefix must have a status, headers and their values,
and a media type that the document has for the operation, and JSON that is read must be of its
schema, so that the document cannot drift from the code. Routes of plugins are in the document of
the server that has the plugins, which is asked for a response that is none of content.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from threading import Lock
from typing import Any
from urllib.parse import unquote

import httpx
import jsonschema_rs

PREFIX = "/pulp/content/"

# Of the server and the body, which no operation lists, and of or for a web server in front of it.
TRANSPORT = {"connection", "content-type", "date", "server", "transfer-encoding"}
TRANSPORT |= {"keep-alive", "via", "x-accel-redirect", "x-sendfile"}

# Statuses of remotes in the tests; the document has them as 4XX and 5XX.
REMOTES = {410}

# Of a method that the document does not have.
REFUSED = {400, 401, 403, 404, 405, 413, 414, 429, 501, 503}

# Of the plugins in the tests, which may add any.
PLUGINS = {"x-plugin", "x-example", "x-example-for"}

# Schemas of JSON that these queries of a file ask for.
QUERIES = {"info": "ContentFileInfo", "checksum": "ContentChecksum"}

# Tags of the operations of ours.
OURS = {"Content", "Probes", "Schema"}

_paused: list[bool] = []

_documents: list[dict[str, Any]] = []

_making = Lock()


def install() -> None:
    """Make httpx check each response."""
    send, asend = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    @wraps(send)
    def handle_request(self: Any, request: httpx.Request) -> httpx.Response:
        response = send(self, request)
        if not _paused:
            check(request, response)
        return response

    @wraps(asend)
    async def handle_async_request(self: Any, request: httpx.Request) -> httpx.Response:
        response = await asend(self, request)
        if not _paused:
            check(request, response)
        return response

    read, aread = httpx.Response.read, httpx.Response.aread

    @wraps(read)
    def read_checked(self: httpx.Response) -> bytes:
        is_read = hasattr(self, "_content")
        body = read(self)
        if not is_read and not _paused:
            check_body(self)
        return body

    @wraps(aread)
    async def aread_checked(self: httpx.Response) -> bytes:
        is_read = hasattr(self, "_content")
        body = await aread(self)
        if not is_read and not _paused:
            check_body(self)
        return body

    httpx.HTTPTransport.handle_request = handle_request
    httpx.AsyncHTTPTransport.handle_async_request = handle_async_request
    httpx.Response.read = read_checked
    httpx.Response.aread = aread_checked


@contextmanager
def paused() -> Iterator[None]:
    """Check nothing during the block, as for routes and hooks of plugins, which send anything."""
    _paused.append(True)
    try:
        yield
    finally:
        _paused.pop()


def check(request: httpx.Request, response: httpx.Response) -> None:
    """Raise AssertionError for a response that the document does not allow."""
    if _is_content(request, response):
        _require(_error(request, response), request, response)


def check_body(response: httpx.Response) -> None:
    """Raise AssertionError for JSON that is not of the schema that the document has for it."""
    if response._request is not None and _is_content(response.request, response):
        _require(_body_error(response.request, response), response.request, response)


def _is_content(request: httpx.Request, response: httpx.Response) -> bool:
    is_served = response.headers.get("Server") == "uvicorn"
    return is_served and request.url.path.startswith(PREFIX)


def _require(error: str, request: httpx.Request, response: httpx.Response) -> None:
    assert not error or _is_of_route(request, response), (
        f"{request.method} {request.url} has {error}, which the OpenAPI document has not."
    )


def _error(request: httpx.Request, response: httpx.Response) -> str:
    """Return the part of a response that the operations of content do not have, or ""."""
    method, status = request.method.lower(), response.status_code
    allowed = _allowed(request, response)
    if not allowed:
        return "" if status in REFUSED else f"method {request.method}"
    if status in REMOTES:
        return ""
    if status not in allowed:
        return f"status {status}"
    unknown = _names(response) - {name.lower() for name in allowed[status]["headers"]}
    if unknown:
        return f"status {status} and headers {unknown}"
    for name in allowed[status]["headers"]:
        if name in response.headers and not _is_value(name, response.headers[name]):
            return f"{name}: {response.headers[name]}"
    media_type, content = _media_type(response), allowed[status].get("content", {})
    if media_type and method != "head" and not {media_type, "*/*"} & content.keys():
        return f"status {status} and Content-Type {media_type}"
    return ""


def _is_value(header: str, value: str) -> bool:
    schema = _document()["components"]["headers"][header]["schema"]
    if schema["type"] == "integer":
        return value.isdecimal() and _validator(header, "headers").is_valid(int(value))
    return _validator(header, "headers").is_valid(value)


def _body_error(request: httpx.Request, response: httpx.Response) -> str:
    """Return the first fault of a body in JSON by its schema, or ""."""
    described = _allowed(request, response).get(response.status_code, {}).get("content", {})
    if not response.content or _media_type(response) != "application/json":
        return ""
    schema = described.get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    asked = [QUERIES[each] for each in QUERIES if each in request.url.params]
    if name == "ContentFile" and asked:
        name = asked[0]
    elif name == "ContentListing" and "use" in request.url.params:  # a root is a directory here
        name = "ContentRoot"
    if name in ("", "ContentFile"):  # any file
        return ""
    errors = _validator(name, "schemas").iter_errors(response.json())
    return next((f"{error.message[:500]} in its {name}" for error in errors), "")


@cache
def _validator(name: str, kind: str) -> Any:
    """Return the validator of a schema or a header; its objects have no other properties."""
    components = _closed(_document()["components"])
    path = f"{name}/schema" if kind == "headers" else name
    schema = {"components": components, "$ref": f"#/components/{kind}/{path}"}
    return jsonschema_rs.Draft202012Validator(schema)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    return {"additionalProperties": False} | closed if "properties" in schema else closed


def _media_type(response: httpx.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0]


def _names(response: httpx.Response) -> set[str]:
    return {name.lower() for name in response.headers} - TRANSPORT - PLUGINS


def _is_of_route(request: httpx.Request, response: httpx.Response) -> bool:
    """Return whether the server's own document has the response for a route of a plugin.

    Its headers are not in the document.
    """
    method = request.method.lower()
    for template, item in _served_document(request.url).get("paths", {}).items():
        operation = item.get(method) or (method == "head" and item.get("get"))
        if not operation or OURS & set(operation["tags"]) or not _matches(template, request.url):
            continue
        if {str(response.status_code), "default"} & operation["responses"].keys():
            return True
    return False


def _matches(template: str, url: httpx.URL) -> bool:
    literals = re.split(r"{\w+}", unquote(template))
    return bool(re.fullmatch(".*".join(map(re.escape, literals)), url.path, re.DOTALL))


def _served_document(url: httpx.URL) -> dict[str, Any]:
    """Return the document of the server at `url`, or {}: not by httpx, which would check it."""
    address = f"{url.scheme}://{url.netloc.decode()}{PREFIX}openapi.json"
    try:
        with urllib.request.urlopen(address, timeout=300) as response:
            document: dict[str, Any] = json.load(response)
            return document
    except (urllib.error.URLError, ValueError):
        return {}


def _template(path: str, is_content: bool) -> str:
    """Return the path template that describes a path."""
    if path == PREFIX or (path in _document()["paths"] and not is_content):
        return path
    return f"{PREFIX}{{base_path}}/{'{directory}/' if path.endswith('/') else '{path}'}"


def _allowed(request: httpx.Request, response: httpx.Response) -> dict[int, dict[str, Any]]:
    """Return the responses by status; none for a method that plugins alone have."""
    # Of a distribution that is named `docs`, or of the index where another begins with `docs/`.
    is_content = "Surrogate-Key" in response.headers or (
        request.url.path.endswith("/") and _media_type(response) == "application/json"
    )
    return _operation(_template(request.url.path, is_content), request.method.lower())


@cache
def _operation(template: str, method: str) -> dict[int, dict[str, Any]]:
    document = _document()
    responses = document["paths"][template].get(method, {}).get("responses", {})
    named = document["components"]["responses"]
    return {
        int(status): named[reference["$ref"].rpartition("/")[2]]
        for status, reference in responses.items()
        if status.isdecimal()
    }


def _document() -> dict[str, Any]:
    """Return the document with all headers that settings add, made once, in a thread.

    The thread of a test may have an event loop, or several send their first requests at once.
    """
    if not _documents:
        with _making, ThreadPoolExecutor(1) as executor:
            if not _documents:
                _documents.append(executor.submit(_make).result())
    return _documents[0]


def _make() -> dict[str, Any]:
    from django.test import override_settings

    from pulpcore.content_star.cache import cdn_headers
    from pulpcore.content_star.schema.document import openapi_document

    with override_settings(CACHE_ENABLED=True, CONTENT_STAR_CORS=True):
        cdn_headers._is_cache_enabled.cache_clear()
        document = openapi_document()
    cdn_headers._is_cache_enabled.cache_clear()
    return document
