"""What answers below a distribution's base path."""

from pulpcore.app.models import Distribution
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.published import PublishedApp


def app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that serves `distribution`."""
    return PublishedApp
