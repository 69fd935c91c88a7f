"""The OpenAPI document of the content app."""

import json
from collections.abc import Iterator

import yaml
from django.conf import settings

from pulpcore.content_star import __version__
from pulpcore.content_star.schema.operations import content_paths, other_paths, parameters
from pulpcore.content_star.schema.plugin_routes import METHODS, plugin_paths
from pulpcore.content_star.schema.responses import components
from pulpcore.content_star.schema.security import security_schemes
from pulpcore.content_star.schema.types import JSON
from pulpcore.plugin.apps import pulp_plugin_configs

DESCRIPTION = (
    "Content of Pulp: files and directories of distributions. Repositories and distributions are "
    "managed with Pulp's REST API."
)


def openapi_document(root_path: str = "") -> JSON:
    """Return the document of the content app at the ASGI `root_path`. Runs an event loop."""
    shared = components() | {"parameters": parameters(), "securitySchemes": security_schemes()}
    paths = content_paths(shared["securitySchemes"]) | other_paths()
    paths |= {path: item for path, item in plugin_paths(shared).items() if path not in paths}
    make_ids_unique(paths, taken={})
    origin = (settings.CONTENT_ORIGIN or "").rstrip("/")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pulp content app",
            "version": __version__,
            "description": DESCRIPTION,
            "x-pulp-app-versions": {app.label: str(app.version) for app in pulp_plugin_configs()},
        },
        "servers": [{"url": f"{origin}{root_path}".rstrip("/") or "/"}],
        "paths": paths,
        "components": shared,
    }


def make_ids_unique(paths: dict[str, JSON], taken: dict[str, JSON]) -> None:
    """Append an underscore to each id of an operation that another one has, or one of `taken`.

    The `openapi` of a plugin's route may set any id.
    """
    known = {operation["operationId"] for operation in _operations(taken)}
    for operation in _operations(paths):
        while operation["operationId"] in known:
            operation["operationId"] += "_"
        known.add(operation["operationId"])


def _operations(paths: dict[str, JSON]) -> Iterator[JSON]:
    for item in paths.values():
        yield from (item[method] for method in METHODS if method in item)


def encoded(document: JSON) -> dict[str, bytes]:
    """Return the document as JSON and as YAML, by media type."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    body = json.dumps(document, separators=(",", ":"))
    # Without the identity of objects, which YAML would write as anchors and aliases.
    text = yaml.dump(json.loads(body), Dumper=dumper, sort_keys=False, allow_unicode=True)
    return {"application/json": body.encode(), "application/yaml": text.encode()}
