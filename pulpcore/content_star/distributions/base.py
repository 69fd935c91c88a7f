"""What all distribution apps share: the request, the plugin's hooks, and how a file is answered."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from types import MappingProxyType

from django.shortcuts import get_object_or_404
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from pulpcore.app import mime_types
from pulpcore.app.contexts import with_domain
from pulpcore.app.models import Artifact, ContentArtifact, Distribution
from pulpcore.content_star.locate import Place
from pulpcore.content_star.lookup import Found, find, source_of
from pulpcore.content_star.remote.response import OnDemandResponse
from pulpcore.content_star.remote.sources import NoRemote, wanted
from pulpcore.content_star.responses.artifact import (
    ArtifactRedirect,
    ArtifactResponse,
    RepresentationArguments,
)
from pulpcore.content_star.responses.headers import Disposition, content_disposition
from pulpcore.content_star.storage import redirect_of
from pulpcore.content_star.storage import source_of as source_in_storage

# Caches in front of Pulp may keep what they get, but ask each time whether it still holds.
CACHE_CONTROL = "public, max-age=0, must-revalidate"


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

    def file(self, found: Found, path: str, disposition: Disposition = "attachment") -> ASGIApp:
        """Answer with the file `found` at `path`, which decides its type.

        Raises `HTTPException` 404 if its bytes are neither in Pulp nor at a remote,
        `StoreUnavailable` if its domain's storage cannot be had.
        """
        artifact = found.content_artifact.artifact
        if artifact is None:
            return self.on_demand(found, path, disposition)
        filename = PurePosixPath(found.content_artifact.relative_path).name
        headers = self.headers_for(path)
        return self.artifact(artifact, filename, found.last_modified, headers, disposition)

    def on_demand(self, found: Found, path: str, disposition: Disposition) -> ASGIApp:
        """Answer with a file that a remote has and Pulp has not saved."""
        domain = self.distribution.pulp_domain
        filename = PurePosixPath(found.content_artifact.relative_path).name
        try:
            file = wanted(found.content_artifact, domain)
        except NoRemote:
            raise HTTPException(404, "No remote has this file any more.") from None

        def again() -> ASGIApp:
            current = get_object_or_404(ContentArtifact, pk=found.content_artifact.pk)
            with with_domain(domain):
                return self.file(Found(current, found.last_modified), path, disposition)

        return OnDemandResponse(
            file,
            again,
            filename=filename,
            last_modified=found.last_modified,
            headers={
                "Content-Disposition": content_disposition(filename, disposition),
                **self.headers_for(path),
            },
        )

    def artifact(
        self,
        artifact: Artifact,
        filename: str,
        last_modified: datetime | None,
        headers: Mapping[str, str] = MappingProxyType({}),
        disposition: Disposition = "attachment",
    ) -> ASGIApp:
        """Answer with the bytes of `artifact`, to be saved as `filename`, or say where they are.

        Raises `StoreUnavailable` if its domain's storage cannot be had.
        """
        domain = self.distribution.pulp_domain
        headers = {"Content-Disposition": content_disposition(filename, disposition), **headers}
        representation = RepresentationArguments(
            size=artifact.size,
            sha256=artifact.sha256,
            last_modified=last_modified,
            filename=filename,
            headers=headers,
        )
        if url := redirect_of(domain, artifact, headers, self.request.method):
            return ArtifactRedirect(url, **representation)
        return ArtifactResponse(source_in_storage(domain, artifact), **representation)

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
            return self.file(find(result, source_of(self.distribution).version), self.path)
        raise HTTPException(501, "The plugin answers this path in a way that is not served here.")
