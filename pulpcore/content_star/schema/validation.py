"""Validation of plugins' path items: the OpenAPI document is valid with them.

The schema of OpenAPI leaves much open: references, names of parameters, and JSON Schemas.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema

from pulpcore.content_star.schema.operations import parameter_key
from pulpcore.content_star.schema.specification import validate_document
from pulpcore.content_star.schema.types import JSON

# Levels of the values in `openapi`: YAML is written and read by recursion.
MAX_DEPTH = 100

# Formats of JSON Schema, and those that OpenAPI adds to them for numbers.
FORMATS = jsonschema.FormatChecker(jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers)
FORMATS.checks("int32")(lambda value: not isinstance(value, int) or -(2**31) <= value < 2**31)
FORMATS.checks("int64")(lambda value: not isinstance(value, int) or -(2**63) <= value < 2**63)

CONTAINERS = (dict, list, tuple)  # written as objects and arrays

# Objects and arrays in what a plugin's `openapi` has, of all its routes.
MAX_VALUES = 100_000

# Values of the longest array: some are compared with each other.
MAX_ITEMS = 1000

# Bytes of all routes of a plugin as JSON.
MAX_BYTES = 4 * 1024 * 1024

# The kinds of components that references below these fields refer to; others refer to none.
KINDS = {
    "parameters": "parameters",
    "responses": "responses",
    "headers": "headers",
    "schema": "schemas",
}

# Fields by which readers of a JSON Schema resolve its references elsewhere.
RESOLVED_ELSEWHERE = {"$id", "$schema", "$dynamicRef"}

PARAMETER = re.compile("{([a-zA-Z_][a-zA-Z0-9_]*)}")  # as in paths of Starlette and of aiohttp

# Fields of which the names are chosen by the plugin.
NAMED = ("properties", "patternProperties", "$defs", "dependentSchemas", "headers", "responses")

# Fields of a JSON Schema whose evaluation may take for ever.
SLOW = ("pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties")

# Fields that have values, not schemas.
VALUES = ("example", "examples", "default", "const", "enum")

_INFO = {"title": "routes", "version": "1"}  # of a document with the routes of one plugin


def validated_paths(items: dict[str, JSON], components: JSON) -> dict[str, JSON]:
    """Return the path items as JSON values, if they leave the document valid.

    Raises ValueError, TypeError or an error of jsonschema.
    """
    _check_depth(items)
    made = {"openapi": "3.1.0", "info": _INFO, "paths": items}
    # Encoded: halves of surrogate pairs are no text in UTF-8, which YAML is written in.
    text = json.dumps(made, allow_nan=False, ensure_ascii=False).encode()
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has over {MAX_BYTES} bytes")
    document = json.loads(text)
    validate_document(document)
    for schema in _values(document, "schema"):
        jsonschema.Draft202012Validator.check_schema(schema)
    for schema in _values(document, "schema"):
        for each in _objects(schema):
            _check_default(each)
            if found := each.keys() & RESOLVED_ELSEWHERE:
                raise ValueError(f"a schema has {found.pop()}, which changes its references")
    for target, kind in _references(document["paths"]):
        _check_reference(target, kind, components)
    for path, item in document["paths"].items():
        _check_parameters(path, item, components["parameters"])
    for requirement in _values(document, "security"):
        for name in (name for each in requirement for name in each):
            if name not in components["securitySchemes"]:
                raise ValueError(f"there is no security scheme {name!r}")
    checked: dict[str, JSON] = document["paths"]
    return checked


def _check_depth(items: dict[str, JSON]) -> None:
    """Raise ValueError for values that are nested so deep that writing or reading them fails.

    Also for too many: an object that occurs twice on each level is written twice as often on each.
    """
    level: list[Any] = list(items.values())
    count = 0
    for _ in range(MAX_DEPTH):
        if any(len(each) > MAX_ITEMS for each in level if not isinstance(each, dict)):
            raise ValueError(f"it has an array of over {MAX_ITEMS} values")
        below = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for values in below for each in values if isinstance(each, CONTAINERS)]
        if not level:
            return
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"it has over {MAX_VALUES} objects and arrays")
    raise ValueError(f"it is nested over {MAX_DEPTH} levels deep")


def _check_default(schema: JSON) -> None:
    """Raise ValueError for a default that is not a value of its own schema."""
    if "default" not in schema or any(True for _ in _values(schema, "$ref")):
        return
    if any(True for key in SLOW for _ in _values(schema, key)):
        return
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    if not validator.is_valid(schema["default"]):
        raise ValueError(f"the default {schema['default']!r} is not of the type of its schema")


def _check_parameters(path: str, item: JSON, components: JSON) -> None:
    """Raise ValueError for parameters that occur twice, or that the path and the item differ in."""
    if set("{}") & set(PARAMETER.sub("", path)):
        raise ValueError(f"{path!r} has a brace that belongs to no parameter")
    names = set(PARAMETER.findall(path))
    for parameters in (item["parameters"], *_values(list(item.values()), "parameters")):
        if not isinstance(parameters, list):
            continue  # of a link
        found = [parameter_key(each, components) for each in parameters]
        if len(found) != len(set(found)):
            raise ValueError(f"{path!r} has a parameter twice")
        unknown = {name for place, name in found if place == "path"} - names
        if unknown:
            raise ValueError(f"{path!r} has no parameter {', '.join(sorted(unknown))}")
    missing = names - {parameter_key(each, components)[1] for each in item["parameters"]}
    if missing:
        raise ValueError(f"{path!r} has parameters of no route: {', '.join(sorted(missing))}")


def _references(value: Any, kind: str = "") -> Iterator[tuple[Any, str]]:
    """Yield the targets of references, with the kind of component that their place takes.

    Readers take any `$ref` for a reference, also a property of that name; not in an example.
    """
    if isinstance(value, list):
        for each in value:
            yield from _references(each, kind)
    if not isinstance(value, dict):
        return
    if "$ref" in value:
        yield value["$ref"], kind
    for key, below in value.items():
        if key in ("example", "examples"):
            named = below.values() if isinstance(below, dict) and key == "examples" else ()
            yield from ((each["$ref"], "") for each in named if "$ref" in each)
            continue
        if key in NAMED and isinstance(below, dict):
            yield from ((each, kind) for name, each in below.items() if name == "$ref")
            below = list(below.values())
        yield from _references(below, kind if kind == "schemas" else KINDS.get(key, ""))


def _check_reference(target: Any, kind: str, components: JSON) -> None:
    prefix = f"#/components/{kind}/"
    if not isinstance(target, str) or not target.startswith(prefix):
        raise ValueError(f"{target!r} is none of the {kind or 'components that it may refer to'}")
    if target.removeprefix(prefix) not in components[kind]:
        raise ValueError(f"{target!r} refers to nothing in the document")


def _values(document: Any, key: str) -> Iterator[Any]:
    """Yield the values of `key` in all objects of `document`."""
    return (each[key] for each in _objects(document) if key in each)


def _objects(document: Any) -> Iterator[JSON]:
    """Yield the objects of `document`, but not maps by name, such as of properties, nor values."""
    if isinstance(document, dict):
        yield document
        below: list[Any] = []
        for name, value in document.items():
            if name in NAMED and isinstance(value, dict):
                below.extend(value.values())
            elif name not in VALUES:
                below.append(value)
        document = below
    for each in document if isinstance(document, list) else ():
        yield from _objects(each)
