"""Hook of drf-spectacular: the paths of content in the schema of Pulp's REST API."""

from typing import Any

from django.conf import settings

from pulpcore.content_star.schema.types import JSON


def add_content_paths(result: JSON, generator: Any, request: Any, public: bool) -> JSON:
    """Add the paths and components of the content app, if CONTENT_STAR_IN_API_SCHEMA is set.

    Not where the schema is of other components of Pulp only, or of another version of OpenAPI.
    """
    is_wanted = settings.CONTENT_STAR_IN_API_SCHEMA and result["openapi"].startswith("3.1")
    if not is_wanted or all(app.label != "content_star" for app in request.apps):
        return result
    # These import the content app.
    from pulpcore.content_star.plugin_host.discovery import plugins
    from pulpcore.content_star.schema.document import openapi_document

    plugins()  # registers their routes, which a process of the API alone has not done yet
    document = openapi_document()
    for path, item in document["paths"].items():
        shared = item.pop("parameters", [])
        for operation in item.values():
            operation["parameters"] = [*shared, *operation.get("parameters", [])]
            if request.bindings:  # where pulpcore looks for the id of each operation
                operation["x-copy-operationId"] = operation["operationId"]
        result["paths"].setdefault(path, item)
    for kind, components in document["components"].items():
        result["components"][kind] = {**components, **result["components"].get(kind, {})}
    return result
