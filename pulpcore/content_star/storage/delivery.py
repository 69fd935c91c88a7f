"""Who sends the bytes of a saved artifact: its object storage, the server in front, or we.

Everything here blocks and runs behind the database door.
"""

from pathlib import PurePath
from typing import Unpack
from urllib.parse import quote

from django.conf import settings
from starlette.types import ASGIApp, Scope

from pulpcore.app.models import Artifact, Domain
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.responses.artifact import (
    ArtifactRedirect,
    ArtifactResponse,
    RepresentationArguments,
)
from pulpcore.content_star.responses.source import Source
from pulpcore.content_star.storage.backends import redirect_of, source_of
from pulpcore.content_star.storage.disk import LocalSource
from pulpcore.content_star.storage.sendfile import SendfileResponse

X_SENDFILE = "X-Sendfile"
X_ACCEL_REDIRECT = "X-Accel-Redirect"


def deliver(
    domain: Domain,
    artifact: Artifact,
    scope: Scope,
    *,
    by_others: bool = True,
    **representation: Unpack[RepresentationArguments],
) -> ASGIApp:
    """Return the response for `artifact`, and tell the exchange where its bytes come from.

    Without `by_others` we send them ourselves, whatever is configured.
    Raises StoreUnavailable.
    """
    info = request_info(scope)
    if by_others:
        headers = representation.get("headers", {})
        if url := redirect_of(domain, artifact, headers, scope["method"]):
            info.source = "redirect"
            return ArtifactRedirect(url, **representation)
    source = source_of(domain, artifact)
    info.source = "local" if isinstance(source, LocalSource) else "proxied"
    if by_others and (header := sendfile_of(source)):
        return SendfileResponse(source, header, **representation)
    return ArtifactResponse(source, **representation)


def sendfile_of(source: Source) -> tuple[str, str] | None:
    """Return the header that has the server in front send `source`, or None to send it ourselves.

    Only what lies below `MEDIA_ROOT` is left to it; that is what it is configured for.
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
