"""Hook of drf-spectacular: the paths of content in the schema of Pulp's REST API."""

from typing import Any

from django.conf import settings

from pulpcore.content_star.schema.types import JSON

# Before the tags of content: the REST API has `Content` and more of its own, and generators make a
# class for each tag.
TAG = "Content app"


def add_content_paths(result: JSON, generator: Any, request: Any, public: bool) -> JSON:
    """Add the paths and components of the content app, if CONTENT_STAR_IN_API_SCHEMA is set.

    Not where the schema is of other components of Pulp only, or of another version of OpenAPI.
    """
    is_wanted = settings.CONTENT_STAR_IN_API_SCHEMA and result["openapi"].startswith("3.1")
    if not is_wanted or all(app.label != "content_star" for app in request.apps):
        return result
    # These import the content app.
    from pulpcore.content_star.plugin_host.discovery import plugins
    from pulpcore.content_star.schema.document import make_ids_unique, openapi_document
    from pulpcore.content_star.schema.operations import overridden

    plugins()  # registers their routes, which a process of the API alone has not done yet
    document = openapi_document()
    found = {path: item for path, item in document["paths"].items() if path not in result["paths"]}
    make_ids_unique(found, taken=result["paths"])
    for item in found.values():
        shared = item.pop("parameters", [])
        for operation in item.values():
            own = operation.get("parameters", [])
            operation["parameters"] = overridden(shared, own, document["components"]["parameters"])
            operation["tags"] = [f"{TAG}: {tag}" for tag in operation["tags"]] or [TAG]
            if request.bindings:  # where pulpcore looks for the id of each operation
                operation["x-copy-operationId"] = operation["operationId"]
    result["paths"] |= found
    for kind, components in document["components"].items():
        result["components"][kind] = {**components, **result["components"].get(kind, {})}
    return result
