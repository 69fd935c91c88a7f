"""JSON Schema of Python types, as in the schema of Pulp's REST API."""

from typing import Any

from drf_spectacular.plumbing import UnableToProceedError, resolve_type_hint

JSON = dict[str, Any]


def json_schema(hint: Any) -> JSON:
    """Return the JSON Schema (2020-12) of a type, such as a `TypedDict` or `list[str]`.

    Raises TypeError for a type that drf-spectacular does not know, or that contains itself.
    """
    try:
        return _in_openapi_3_1(resolve_type_hint(hint))  # type: ignore[no-untyped-call]
    except UnableToProceedError:
        raise TypeError(f"{hint!r} has no JSON Schema") from None
    except RecursionError:
        raise TypeError(f"{hint!r} has no JSON Schema, since it contains itself") from None


def _in_openapi_3_1(schema: Any) -> Any:
    """Replace `nullable` of OpenAPI 3.0, and sort sets, whose order differs between processes."""
    if isinstance(schema, list):
        return [_in_openapi_3_1(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: _in_openapi_3_1(value) for name, value in schema.items()}
    if isinstance(converted.get("required"), list):
        converted["required"].sort()
    if converted.pop("nullable", False):
        return {"anyOf": [converted, {"type": "null"}]}
    return converted
