"""What answers below a distribution's base path."""

from pulpcore.app.models import ArtifactDistribution, Distribution, OpenPGPDistribution
from pulpcore.content_star.distributions.artifact import ArtifactApp
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.checkpoint import CheckpointApp
from pulpcore.content_star.distributions.openpgp import OpenPGPApp
from pulpcore.content_star.distributions.published import PublishedApp


def app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that serves `distribution`."""
    if distribution.checkpoint:
        return CheckpointApp
    match distribution:
        case ArtifactDistribution():
            return ArtifactApp
        case OpenPGPDistribution():
            return OpenPGPApp
    return PublishedApp
