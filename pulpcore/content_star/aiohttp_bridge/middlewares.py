"""aiohttp middleware that replaces upstream's before the handlers of plugins."""

from functools import partial
from typing import Any

from aiohttp import web
from asgiref.sync import sync_to_async
from starlette.types import Scope

from pulpcore.content_star.aiohttp_bridge.request import connection_of
from pulpcore.content_star.auth.authentication import authenticate
from pulpcore.content_star.auth.password_checks import with_passwords
from pulpcore.plugin.models import Domain
from pulpcore.plugin.util import set_domain

# Modules of upstream's middlewares for authentication, metrics and the correlation id, which ASGI
# middleware and `identify` replace.
_REPLACED_MODULES = ("pulpcore.content.authentication", "pulpcore.content.instrumentation")


def replace_upstream_middlewares(app: web.Application) -> None:
    """Replace upstream's middlewares of `app` by `identify`, before those of plugins."""
    plugin_middlewares = [
        each for each in app.middlewares if getattr(each, "__module__", "") not in _REPLACED_MODULES
    ]
    app.middlewares[:] = [identify, *plugin_middlewares]


@web.middleware  # type: ignore[untyped-decorator]
async def identify(request: Any, handler: Any) -> Any:
    """Set the current domain, and `user`, `auth` and `drf_request` of the request.

    Raises `HTTPNotFound` for an unknown domain.
    """
    connection = connection_of(request)
    assert connection is not None
    await with_passwords(
        connection.scope, partial(sync_to_async(_identify), request, connection.scope)
    )
    return await handler(request)


def _identify(request: Any, scope: Scope) -> None:
    name = request.match_info.get("pulp_domain", "default")
    domain = Domain.objects.filter(name=name).first()
    if domain is None:
        raise web.HTTPNotFound(text=f"There is no domain '{name}'.")
    set_domain(domain)
    drf_request = authenticate(scope)
    drf_request.pulp_domain = domain
    request["user"] = drf_request.user
    request["auth"] = drf_request.auth
    request["drf_request"] = drf_request
