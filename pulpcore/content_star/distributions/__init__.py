"""What answers below a distribution's base path."""

from starlette.exceptions import HTTPException

from pulpcore.app.models import Distribution
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.published import PublishedApp


def app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that serves `distribution`.

    Raises `HTTPException` 501 for a kind of distribution that is not served yet.
    """
    if distribution.checkpoint:
        raise HTTPException(501, "Checkpoint distributions are not served here.")
    return PublishedApp
