"""The distribution that serves artifacts by their id, which the REST API links to."""

import uuid

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.app.models import Artifact, ArtifactDistribution
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.registry import serves


@serves(ArtifactDistribution)
class ArtifactApp(DistributionApp):
    """Serves `<id of an artifact>`; its guard lets only links pass that Pulp signed."""

    keeps_answers = True

    def respond(self) -> ASGIApp:
        name = self.path.rstrip("/")
        artifact = Artifact.objects.filter(
            pk=_parse(name), pulp_domain=self.distribution.pulp_domain
        ).first()
        if artifact is None:
            raise HTTPException(404, f"There is no artifact '{name}'.")
        return self.artifact(artifact, name, artifact.pulp_created)


def _parse(name: str) -> uuid.UUID:
    try:
        parsed = uuid.UUID(name)
    except ValueError:
        raise HTTPException(404, f"'{name}' is not the id of an artifact.") from None
    if str(parsed) != name:  # one artifact, one URL
        raise HTTPException(404, f"'{name}' is not the id of an artifact.")
    return parsed
