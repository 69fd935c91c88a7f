"""Resources that the requests of one application share, in its ASGI lifespan state.

`application.open_resources` opens them when the application starts, and closes them at its end, so
that two applications in one process share none of them. docs/architecture.md lists the module
globals that remain, with their reasons.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import Scope

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from pulpcore.content_star.auth.basic_auth_cache import PasswordCache
    from pulpcore.content_star.auth.password_checks import PasswordChecks
    from pulpcore.content_star.database.executor import DatabaseExecutor
    from pulpcore.content_star.remote.downloads import Downloads
    from pulpcore.content_star.remote.pull_through.metadata_cache import MetadataCache
    from pulpcore.content_star.responses.disconnect import PendingRequests
    from pulpcore.content_star.storage.objects import ObjectClient

STATE_KEY = "content_star"
"""Key of the resources in the lifespan state, which servers copy to the scope of each request."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of one application and its event loop."""

    downloads: "Downloads"
    metadata: "MetadataCache"
    objects: "ObjectClient"
    password_cache: "PasswordCache"
    password_checks: "PasswordChecks"
    pending_requests: "PendingRequests"
    """Requests of plugin routes whose handlers are not called yet."""
    proxy: "ClientSession"
    route_executor: "DatabaseExecutor"
    """Executor of plugin routes, which may take long: files do not wait for them."""


def resources_of(scope: Scope) -> Resources:
    """Return the resources of the application that the request is to.

    Raises KeyError outside of its lifespan, as with `uvicorn --lifespan off`.
    """
    resources: Resources = scope["state"][STATE_KEY]
    return resources
