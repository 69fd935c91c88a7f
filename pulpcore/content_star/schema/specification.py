"""The schema of OpenAPI 3.1 documents."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from drf_spectacular.renderers import OpenApiJsonRenderer
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from pulpcore.content_star.schema.types import JSON


def validate_document(document: JSON) -> None:
    """Raise `jsonschema.ValidationError` for a document that is not OpenAPI 3.1.

    As drf-spectacular's `validate_schema`, which checks OpenAPI's own schema on each call: that
    takes ten times as long as the document.
    """
    plain = json.loads(OpenApiJsonRenderer().render(document))  # without lazy texts
    if error := best_match(_validator().iter_errors(plain)):
        raise error


@cache
def _validator() -> Any:
    text = files("drf_spectacular.validation").joinpath("openapi_3_1_schema.json").read_text()
    return Draft202012Validator(json.loads(text))
