"""Replaced methods of upstream's `Handler`, the base class of plugins' handlers.

Upstream's code finds the distribution and content; artifacts and on-demand content are then sent
by this content app.
"""

import re
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

from aiohttp import web
from starlette.types import ASGIApp, Scope

from pulpcore.content_star.aiohttp_bridge.files import (
    AppResponse,
    artifact_app,
    last_modified_of,
    plain,
    send_made,
)
from pulpcore.content_star.aiohttp_bridge.request import connection_of
from pulpcore.content_star.cache.cdn_headers import surrogate_keys, vary_headers
from pulpcore.content_star.remote.on_demand import NoRemote, on_demand_request
from pulpcore.content_star.remote.pull_through.models import (
    find_content_artifact,
    pull_through_request,
)
from pulpcore.content_star.remote.pull_through.response import PullThroughResponse
from pulpcore.content_star.remote.response import OnDemandResponse
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.upstream import with_domain
from pulpcore.plugin.models import ContentArtifact
from pulpcore.plugin.util import get_domain

# Blob name in a container registry: its digest.
_BLOB = re.compile(r"sha256:[0-9a-f]{64}")


def replace_handler_methods(handler: Any) -> None:
    """Replace methods of upstream's class `Handler` in this process."""
    permit = handler._permit
    stream_remote_artifact = handler._stream_remote_artifact

    def _permit(request: Any, distribution: Any) -> Any:
        """Set the CDN headers of the distribution, then call its guard."""
        if (connection := connection_of(request)) is not None:
            _set_request_info(connection.scope, distribution)
        return permit(request, distribution)

    async def _stream_remote_artifact(
        self: Any, request: Any, response: Any, remote_artifact: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Fetch a remote artifact once for all clients.

        Upstream's method fetches new content if the plugin overrides `_save_artifact`.
        """
        content_artifact = remote_artifact.content_artifact
        is_new = content_artifact._state.adding
        saves_itself = type(self)._save_artifact is not handler._save_artifact
        if connection_of(request) is None or (is_new and saves_itself):
            return await stream_remote_artifact(
                self, request, response, remote_artifact, *args, **kwargs
            )
        if is_new:
            return await _pull_through(request, response, remote_artifact, *args, **kwargs)
        return await _stream_content_artifact(self, request, response, content_artifact)

    handler.stream_content = _stream_content
    handler._permit = staticmethod(_permit)
    handler._serve_content_artifact = _serve_content_artifact
    handler._stream_content_artifact = _stream_content_artifact
    handler._stream_remote_artifact = _stream_remote_artifact


async def _stream_content(self: Any, request: Any) -> Any:
    """Call upstream's method without its cache."""
    return await self._match_and_stream(request.match_info["path"], request)


async def _serve_content_artifact(
    self: Any, content_artifact: Any, headers: Any, request: Any
) -> web.StreamResponse:
    """Return the response for a saved artifact."""
    return AppResponse(partial(_saved, content_artifact), headers)


async def _stream_content_artifact(
    self: Any, request: Any, response: web.StreamResponse, content_artifact: Any
) -> web.StreamResponse:
    """Stream on-demand content instead of `response`; return when it is sent.

    Raises `HTTPNotFound` without a remote.
    """
    try:
        await send_made(partial(_on_demand, content_artifact), response, request)
    except NoRemote:
        raise web.HTTPNotFound from None
    return response


async def _pull_through(
    request: Any,
    response: web.StreamResponse,
    remote_artifact: Any,
    save_artifact: bool = True,
    repository: Any = None,
) -> web.StreamResponse:
    """Stream new content of a remote (pull-through), as `_stream_content_artifact` does.

    Raises RemoteUnavailable; RemoteRefused with the status of the remote's response.
    """
    target_repository = repository.pk if repository and repository.PULL_THROUGH_SUPPORTED else None
    await send_made(
        partial(_pulled, remote_artifact, save_artifact, target_repository, request),
        response,
        request,
    )
    return response


def _pulled(
    remote_artifact: Any,
    saves: bool,
    repository: UUID | None,
    request: Any,
    headers: Any,
    scope: Scope,
) -> ASGIApp:
    domain = get_domain()
    remote = remote_artifact.remote.cast()
    path = remote_artifact.content_artifact.relative_path

    def retry() -> ASGIApp:
        with with_domain(domain):
            known = find_content_artifact(remote.pk, remote_artifact.url)
            if known is None:
                return _pulled(remote_artifact, saves, repository, request, headers, scope)
            return (_on_demand if known.artifact is None else _saved)(known, headers, scope)

    request_info(scope).source = "remote"
    fetch_request = pull_through_request(
        domain,
        remote,
        remote_artifact.url,
        path,
        saves=saves,
        repository=repository,
        request=request,
    )
    return PullThroughResponse(fetch_request, retry, plain(headers))


def _saved(content_artifact: Any, headers: Any, scope: Scope) -> ASGIApp:
    filename = PurePosixPath(content_artifact.relative_path).name
    artifact = content_artifact.artifact
    return artifact_app(
        get_domain(), artifact, filename, headers, scope, "attachment", offload=True
    )


def _on_demand(content_artifact: Any, headers: Any, scope: Scope) -> ASGIApp:
    domain = get_domain()
    filename = PurePosixPath(content_artifact.relative_path).name

    def retry() -> ASGIApp:
        current = ContentArtifact.objects.select_related("artifact").get(pk=content_artifact.pk)
        with with_domain(domain):
            if current.artifact is None:
                return _on_demand(current, headers, scope)
            return _saved(current, headers, scope)

    request_info(scope).source = "remote"
    return OnDemandResponse(
        on_demand_request(content_artifact, domain),
        retry,
        filename=filename,
        last_modified=last_modified_of(headers),
        headers=_blob_headers(content_artifact.relative_path) | plain(headers),
    )


def _blob_headers(name: str) -> dict[str, str]:
    """Return the headers that pulp_container gives a blob once it is saved.

    For an unsaved blob it passes on those of the remote, which may be a CDN without them.
    """
    if not _BLOB.fullmatch(name):
        return {}
    return {"docker-content-digest": name, "docker-distribution-api-version": "registry/2.0"}


def _set_request_info(scope: Scope, distribution: Any) -> None:
    info = request_info(scope)
    info.domain, info.pulp_type = distribution.pulp_domain.name, distribution.pulp_type
    info.vary = vary_headers(distribution.content_guard)
    info.surrogate_keys = surrogate_keys(distribution)
