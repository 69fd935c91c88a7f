"""What answers below a distribution's base path."""

from pulpcore.app.models import Distribution
from pulpcore.content_star.distributions import artifact, openpgp, published  # noqa: F401
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.checkpoint import CheckpointApp
from pulpcore.content_star.distributions.registry import app_of


def app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that serves `distribution`."""
    return CheckpointApp if distribution.checkpoint else app_of(type(distribution))
