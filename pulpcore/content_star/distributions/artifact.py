"""Distributions of artifacts as such: at any path a plugin finds one for, or by their id."""

import uuid
from abc import abstractmethod
from pathlib import PurePosixPath

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.app.models import Artifact, ArtifactDistribution
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.registry import serves


class ArtifactApp(DistributionApp):
    """Serves the artifact that `find_artifact` finds for a path. There are no directories."""

    @abstractmethod
    def find_artifact(self, path: str) -> Artifact | None:
        """Return the artifact at `path`, of the distribution's domain; None is a 404.

        Nothing else says who may have it: an artifact of another repository is as good as this
        one's own.
        """

    def respond(self) -> ASGIApp:
        artifact = self.find_artifact(self.path)
        if artifact is None:
            raise HTTPException(404, f"There is no artifact '{self.path}'.")
        name = PurePosixPath(self.path).name
        return self.artifact(artifact, name, artifact.pulp_created, self.headers_for(self.path))


@serves(ArtifactDistribution)
class ArtifactByIdApp(ArtifactApp):
    """Serves `<id of an artifact>`, which the REST API links to.

    Its guard lets only links pass that Pulp signed.
    """

    keeps_answers = True

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
