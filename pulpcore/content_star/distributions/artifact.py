"""Distribution apps of artifacts, at paths that a plugin resolves or by artifact id."""

import uuid
from abc import abstractmethod
from pathlib import PurePosixPath

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.upstream import ArtifactDistribution
from pulpcore.plugin.models import Artifact


class ArtifactApp(DistributionApp):
    """Serve the artifact that `find_artifact` returns for a path, without directories."""

    @abstractmethod
    def find_artifact(self, path: str) -> Artifact | None:
        """Return the artifact at `path`, of the distribution's domain, or None for 404.

        The artifact is sent without a further check, even if it is of another repository: this
        method has to decide which artifacts the distribution serves.
        """

    def respond(self) -> ASGIApp:
        artifact = self.find_artifact(self.path)
        if artifact is None:
            raise HTTPException(404, f"Artifact '{self.path}' does not exist.")
        name = PurePosixPath(self.path).name
        return self.artifact(artifact, name, artifact.pulp_created, self.headers_for(self.path))


@serves(ArtifactDistribution)
class ArtifactByIdApp(ArtifactApp):
    """Serve `<artifact id>`, to which the REST API links.

    The guard of this distribution permits only URLs that Pulp has signed.
    """

    cacheable = True

    def find_artifact(self, path: str) -> Artifact | None:
        name = path.rstrip("/")
        domain = self.distribution.pulp_domain
        return Artifact.objects.filter(pk=_parse(name), pulp_domain=domain).first()


def _parse(name: str) -> uuid.UUID:
    try:
        parsed = uuid.UUID(name)
    except ValueError:
        raise HTTPException(404, f"'{name}' is not the id of an artifact.") from None
    if str(parsed) != name:  # one artifact, one URL
        raise HTTPException(404, f"'{name}' is not the id of an artifact.")
    return parsed
