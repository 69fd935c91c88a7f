"""Choose how a saved artifact is sent: by redirect, by the server in front, or by this process.

Everything here blocks and runs in the database executor.
"""

from pathlib import PurePath
from typing import Unpack
from urllib.parse import quote

from django.conf import settings
from starlette.types import ASGIApp, Scope

from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.responses.artifact import (
    ArtifactRedirect,
    ArtifactResponse,
    RepresentationArguments,
)
from pulpcore.content_star.responses.source import Source
from pulpcore.content_star.storage.backends import artifact_source, redirect_url
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.sendfile import SendfileResponse
from pulpcore.plugin.models import Artifact, Domain

X_SENDFILE = "X-Sendfile"
X_ACCEL_REDIRECT = "X-Accel-Redirect"


def deliver(
    domain: Domain,
    artifact: Artifact,
    scope: Scope,
    *,
    offload: bool = True,
    **representation: Unpack[RepresentationArguments],
) -> ASGIApp:
    """Return the response for `artifact`, and set `source` of the request info.

    Without `offload` this process sends the bytes itself, regardless of the settings.
    Raises StoreUnavailable.
    """
    info = request_info(scope)
    if offload:
        headers = representation.get("headers", {})
        if url := redirect_url(domain, artifact, headers, scope["method"]):
            info.source = "redirect"
            return ArtifactRedirect(url, **representation)
    source = artifact_source(domain, artifact, scope)
    info.source = "local" if isinstance(source, LocalSource) else "proxied"
    if offload and (header := sendfile_of(source)):
        return SendfileResponse(source, header, **representation)
    return ArtifactResponse(source, **representation)


def sendfile_of(source: Source) -> tuple[str, str] | None:
    """Return the X-Sendfile or X-Accel-Redirect header for `source`, or None to send it here.

    None for files outside of `MEDIA_ROOT`, which the server in front is not configured to send.
    """
    setting = settings.CONTENT_STAR_SENDFILE
    if not setting or not isinstance(source, LocalSource):
        return None
    path, root = PurePath(source.name), PurePath(settings.MEDIA_ROOT)
    if not path.is_relative_to(root) or ".." in path.parts:
        return None
    if setting == X_SENDFILE:
        return X_SENDFILE, quote(str(path))
    return X_ACCEL_REDIRECT, f"{setting.rstrip('/')}/{quote(str(path.relative_to(root)))}"
