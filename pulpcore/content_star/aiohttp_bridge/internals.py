"""Private attributes of aiohttp, pulpcore and asgiref that the bridge uses or replaces.

Nothing is replaced on import: the application calls `install` once, at its start. Read and tested
with pulpcore 3.115 to 3.123, aiohttp 3.13 to 3.14, and asgiref 3.8 to 3.13.
"""

from functools import cache
from importlib import import_module

from aiohttp import web
from asgiref.sync import SyncToAsync
from django.core.exceptions import ImproperlyConfigured

from pulpcore.content_star.aiohttp_bridge.files import replace_prepare_methods
from pulpcore.content_star.aiohttp_bridge.hook_responses import HookResponse, response_app
from pulpcore.content_star.auth.guards import deny_malformed_headers
from pulpcore.content_star.distributions.plugin_hooks import register_adapter, register_responder
from pulpcore.plugin.cache import AsyncContentCache
from pulpcore.plugin.responses import ArtifactResponse

REPLACED: dict[str, tuple[object, tuple[str, ...]]] = {
    "aiohttp.web.FileResponse": (web.FileResponse, ("prepare",)),
    "pulpcore.responses.ArtifactResponse": (ArtifactResponse, ("prepare",)),
    "pulpcore.cache.AsyncContentCache": (
        AsyncContentCache,
        ("__call__", "get", "exists", "set", "make_entry"),
    ),
}
"""Attributes that are replaced, by `install` or once a plugin has aiohttp routes.

Also replaced is the public method `permit` of pulpcore's content guards, see `auth/guards.py`."""

REPLACED_IN_HANDLER = (
    "_permit",
    "_serve_content_artifact",
    "_stream_content_artifact",
    "_stream_remote_artifact",
)
"""Replaced attributes of `pulpcore.content.handler.Handler`, with a plugin module `content`."""

USED: dict[str, tuple[object, tuple[str, ...]]] = {
    "aiohttp.web.Application": (web.Application, ("_handle",)),
    "aiohttp.web.Request": (web.Request, ("_finish", "_prepare_hook")),
    "aiohttp.web.StreamResponse": (web.StreamResponse, ("_set_status",)),
    "asgiref.sync.SyncToAsync": (
        SyncToAsync,
        ("context_to_thread_executor", "thread_sensitive_context", "threadlocal"),
    ),
}
"""Private attributes that are read or called."""


@cache
def install() -> None:
    """Replace `prepare` of file responses and `permit` of guards, and register response adapters.

    Raises `ImproperlyConfigured` if an installed version lacks a private attribute.
    """
    if missing := missing_internals():
        raise ImproperlyConfigured(
            f"The bridge for aiohttp plugins requires {', '.join(missing)}, which the installed"
            " version lacks. Install a version that pulp-content-star was tested with."
        )
    replace_prepare_methods()
    deny_malformed_headers()
    register_adapter(web.StreamResponse, response_app)
    register_responder(web.HTTPException, HookResponse)


def missing_internals() -> list[str]:
    """Return dotted names of the private attributes that the installed versions lack."""
    handler = import_module("pulpcore.content.handler").Handler
    needed = {
        **REPLACED,
        **USED,
        "pulpcore.content.handler.Handler": (handler, (*REPLACED_IN_HANDLER, "_save_artifact")),
    }
    return [
        f"{owner}.{name}"
        for owner, (target, names) in needed.items()
        for name in names
        if not hasattr(target, name)
    ]
