"""What all distribution apps share: the request, the plugin's hooks, and how a file is answered."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from pulpcore.app import mime_types
from pulpcore.app.models import ContentArtifact, Distribution
from pulpcore.content_star.edge import tags_of
from pulpcore.content_star.exchange import exchange_of
from pulpcore.content_star.locate import Place
from pulpcore.content_star.lookup import Found, Source, find, source_of
from pulpcore.content_star.responses.artifact import ArtifactResponse

# Caches in front of Pulp may keep what they get, but ask each time whether it still holds.
CACHE_CONTROL = "public, max-age=0, must-revalidate"

FILE_SYSTEM = "pulpcore.app.models.storage.FileSystem"


class DistributionApp(ABC):
    """Answers one authorized request to one distribution.

    Everything here blocks and runs behind the database door, in one trip. What `respond` returns is
    sent afterwards, when the connection has been given back.
    """

    def __init__(self, request: Request, place: Place) -> None:
        self.request = request
        self.distribution = place.distribution
        self.path = place.path

    @abstractmethod
    def respond(self) -> ASGIApp:
        """Return the response; raises `HTTPException`, or what else `errors` translates."""

    @cached_property
    def source(self) -> Source:
        """What the distribution serves now; caches are told, since the answer depends on it."""
        source = source_of(self.distribution)
        exchange_of(self.request.scope).tags = tags_of(self.distribution, source)
        return source

    def file(
        self,
        found: Found,
        path: str,
        disposition: Literal["attachment", "inline"] = "attachment",
    ) -> ASGIApp:
        """Answer with the file `found` at `path`, which decides its type.

        Raises `HTTPException` 501 if its bytes are not on a file system of Pulp.
        """
        artifact = found.content_artifact.artifact
        if artifact is None:
            raise HTTPException(501, "This file is on demand: Pulp knows it but has not saved it.")
        domain = self.distribution.pulp_domain
        if domain.storage_class != FILE_SYSTEM:
            raise HTTPException(501, f"Storage of class '{domain.storage_class}' is not served.")
        exchange_of(self.request.scope).source = "local"
        return ArtifactResponse(
            domain.get_storage().path(artifact.file.name),
            size=artifact.size,
            sha256=artifact.sha256,
            last_modified=found.last_modified,
            filename=PurePosixPath(found.content_artifact.relative_path).name,
            headers=self.headers_for(path),
            disposition=disposition,
        )

    def headers_for(self, path: str) -> dict[str, str]:
        """Return type and caching of the file at `path`, and what the plugin adds or replaces."""
        headers = {"Cache-Control": CACHE_CONTROL}
        if content_type := mime_types.get_type(path):
            headers["Content-Type"] = content_type
        return headers | self.distribution.content_headers_for(path)

    def from_plugin(self) -> ASGIApp | None:
        """Ask the plugin's `content_handler`; None if it has none or leaves the path to us.

        Raises `HTTPException` 501 if it answers with anything but a content artifact.
        """
        if type(self.distribution).content_handler is Distribution.content_handler:
            return None
        result = self.distribution.content_handler(self.path)
        if result is None:
            return None
        if isinstance(result, ContentArtifact):
            return self.file(find(result, self.source.version), self.path)
        raise HTTPException(501, "The plugin answers this path in a way that is not served here.")
