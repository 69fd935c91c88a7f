"""Whether a server in front of Pulp sends a file, and how it is told."""

from pathlib import PurePath
from urllib.parse import quote

from django.conf import settings

from pulpcore.content_star.responses.disk import LocalSource
from pulpcore.content_star.responses.source import Source

X_SENDFILE = "X-Sendfile"
X_ACCEL_REDIRECT = "X-Accel-Redirect"


def handover_of(source: Source) -> tuple[str, str] | None:
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
