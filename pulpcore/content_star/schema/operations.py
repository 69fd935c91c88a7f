"""Operations of the content app: files, directories, the index, probes, and the document."""

from collections.abc import Collection, Mapping, Sequence

from django.conf import settings

from pulpcore.content_star.distributions.file_page import ALGORITHMS
from pulpcore.content_star.listings import distributions, page, pagination
from pulpcore.content_star.listings.facts_query import CHECKSUM, INFO, USE
from pulpcore.content_star.responses.artifact import RANGE_OR_CONDITION
from pulpcore.content_star.schema.responses import reference
from pulpcore.content_star.schema.security import requirements
from pulpcore.content_star.schema.types import JSON
from pulpcore.content_star.views import READ_METHODS

# Statuses of any request: its path, query or a header is invalid or too long.
INVALID = (400, 414)

# Statuses of any request to content: of guards, of the database, and of what is not there.
ERRORS = (400, 401, 403, 404, 414, 429, 500, 501, 502, 503, 504)

FILE = ("File", 206, 301, 302, 304, 412, 416, *ERRORS)
ROOT = ("Root", 206, 301, 302, 304, 412, 416, *ERRORS)
DIRECTORY = ("Directory", 206, 301, 302, 304, 412, 416, *ERRORS)
INDEX = ("Directory", 301, 304, 412, *ERRORS)
REMOTE = {status: reference("RemoteStatus") for status in ("4XX", "5XX")}

TAG = "Content"

_SUMMARIES = {
    "Document": "This document as JSON",
    "DocumentYAML": "This document as YAML",
    "Page": "This document as a page",
}

_NOT_EMPTY: JSON = {"type": "string", "minLength": 1}

_MAY_HAVE_SLASHES = "May contain slashes, which are sent as they are."

CONDITIONS = {
    "range": "Byte ranges (RFC 9110 section 14.2).",
    "if-match": "Entity tags, of which the file must have one.",
    "if-none-match": "Entity tags, of which the file must have none.",
    "if-modified-since": "Time since which the file must have changed.",
    "if-unmodified-since": "Time since which the file must not have changed.",
    "if-range": "Entity tag or time of the file that the range is of.",
}


def parameters() -> dict[str, JSON]:
    """Return the reusable parameters."""
    found = {
        "base_path": _path("Base path of a distribution, or of several. " + _MAY_HAVE_SLASHES),
        "path": _path("Path of a file below the base path. " + _MAY_HAVE_SLASHES),
        "directory": _path("Path of a directory below the base path. " + _MAY_HAVE_SLASHES),
        "pulp_domain": _path("Name of the domain."),
        INFO: _query(
            "Return facts about the file instead of its content, as a page, text or JSON. Has "
            "no value: others are ignored.",
            allowEmptyValue=True,
        ),
        USE: _query(
            "Return how to use the distribution instead of its root, as a page, text or JSON. Has "
            "no value: others are ignored.",
            allowEmptyValue=True,
        ),
        CHECKSUM: _query("Return this digest of the file instead of its content.", ALGORITHMS),
        pagination.PARAMETER: _query("Page of a JSON listing, from its `next`, or of a page."),
        "list": _query("Return the list of links instead of a page.", allowEmptyValue=True),
        "q": _query("Return entries with this in their names; pages only."),
        "sort": _query("Sort order of a directory; pages only.", page.SORTS),
        "sort_index": _query("Sort order of the index; pages only.", list(distributions.SORTS)),
        "order": _query("Direction of the sort order; pages only.", ("asc", "desc")),
    }
    found["q"]["schema"]["maxLength"] = page.MAX_FILTER_LENGTH
    found["pulp_domain"]["x-isDomain"] = True  # clients have a default, as in the REST API
    for name in sorted(name.decode() for name in RANGE_OR_CONDITION):
        found[name.title()] = {
            "in": "header",
            "description": CONDITIONS.get(name, ""),
            "schema": {"type": "string"},
        }
    names = {name: "sort" if name == "sort_index" else name for name in found}
    return {key: {"name": names[key]} | found[key] for key in found}


def content_root() -> str:
    """Return the path template of the index of distributions."""
    prefix: str = settings.CONTENT_PATH_PREFIX
    return f"{prefix}{{pulp_domain}}/" if settings.DOMAIN_ENABLED else prefix


def content_paths(schemes: Collection[str]) -> dict[str, JSON]:
    """Return the path items of content, which any of the security `schemes` may be needed for."""
    root, base = content_root(), f"{content_root()}{{base_path}}"
    conditions = sorted(name.decode().title() for name in RANGE_OR_CONDITION)
    common = ["list", "q", "order", pagination.PARAMETER]
    listing = [*common, "sort", *conditions]
    items = {
        root: _content("index", "List the distributions", INDEX, [*common, "sort_index"]),
        base: _content(
            "distribution", "Redirect to the root of a distribution", FILE, [], "base_path"
        ),
        f"{base}/": _content(
            "root",
            "List the root of a distribution, or the distributions below a base path",
            ROOT,
            [USE, *listing],
            "base_path",
        ),
        f"{base}/{{path}}": _content(
            "file", "Get a file", FILE, [INFO, CHECKSUM, *conditions], "base_path", "path"
        ),
        f"{base}/{{directory}}/": _content(
            "directory",
            "List a directory",
            DIRECTORY,
            listing,
            "base_path",
            "directory",
        ),
    }
    for item in items.values():
        for method in READ_METHODS:
            item[method.lower()]["security"] = requirements(schemes)
    return items


def other_paths() -> dict[str, JSON]:
    """Return the path items of the probes and of the document."""
    prefix = settings.CONTENT_PATH_PREFIX
    return {
        f"{prefix}livez": _probe("liveness", "Liveness probe", {200: "Live"}),
        f"{prefix}readyz": _probe(
            "readiness", "Readiness probe, and status as JSON", {200: "Ready", 503: "NotReady"}
        ),
        f"{prefix}openapi.json": _document("schema", "Document"),
        f"{prefix}openapi.yaml": _document("schema_yaml", "DocumentYAML"),
        f"{prefix}docs/": _document("docs", "Page"),
    }


def domain_parameters() -> list[JSON]:
    """Return the parameter of `content_root`, if domains are enabled."""
    return [_parameter("pulp_domain")] if settings.DOMAIN_ENABLED else []


def parameter_key(parameter: JSON, parameters: JSON) -> tuple[str, str]:
    """Return place and name of a parameter, or of the one of `parameters` that it refers to."""
    reference: str | None = parameter.get("$ref")
    found = parameters[reference.rpartition("/")[2]] if reference else parameter
    return found["in"], found["name"]


def overridden(shared: Sequence[JSON], own: Sequence[JSON], parameters: JSON) -> list[JSON]:
    """Return the parameters of an operation, which override those that its path item shares."""
    keys = {parameter_key(each, parameters) for each in own}
    return [*(each for each in shared if parameter_key(each, parameters) not in keys), *own]


def operation(name: str, method: str, summary: str, tag: str, responses: JSON) -> JSON:
    """Return an operation whose id is made from a name and a method."""
    return {
        "operationId": f"{method.lower()}_{name}",
        "summary": summary,
        "tags": [tag],
        "responses": responses,
    }


def _content(
    name: str, summary: str, responses: Sequence[str | int], queries: Sequence[str], *path: str
) -> JSON:
    """Return the path item of content: its methods read it, or list themselves."""
    item: JSON = {"parameters": [*domain_parameters(), *map(_parameter, path)]}
    for method in READ_METHODS:
        found = {_status(each): reference(each, method) for each in responses}
        found |= {} if responses is INDEX else REMOTE
        item[method.lower()] = operation(name, method, summary, TAG, found) | {
            "parameters": list(map(_parameter, queries))
        }
    item["options"] = _options(name, TAG)
    return item


def _options(name: str, tag: str) -> JSON:
    responses = {"200": reference("Options")} | {str(each): reference(each) for each in INVALID}
    return operation(name, "options", "List the methods", tag, responses)


def _probe(name: str, summary: str, responses: Mapping[int, str]) -> JSON:
    others = {status: status for status in INVALID}
    return _item(name, summary, "Probes", {**responses, **others})


def _document(name: str, response: str) -> JSON:
    # Content of that name has precedence, and redirects or asks its guard.
    others = {status: status for status in (301, 304, 412, *ERRORS)}
    return _item(name, _SUMMARIES[response], "Schema", {200: response, **others})


def _item(name: str, summary: str, tag: str, responses: Mapping[int, str | int]) -> JSON:
    """Return a path item without parameters."""
    item: JSON = {"options": _options(name, tag)}
    for method in READ_METHODS:
        found = {str(status): reference(responses[status], method) for status in responses}
        item[method.lower()] = operation(name, method, summary, tag, found)
    return item


def _status(response: str | int) -> str:
    return "200" if isinstance(response, str) else str(response)


def _parameter(name: str) -> JSON:
    return {"$ref": f"#/components/parameters/{name}"}


def _path(description: str) -> JSON:
    return {"in": "path", "required": True, "description": description, "schema": _NOT_EMPTY}


def _query(description: str, values: Sequence[str] = (), **fields: bool) -> JSON:
    schema: JSON = {"type": "string"} | ({"enum": list(values)} if values else {})
    return {"in": "query", "description": description, "schema": schema, **fields}
