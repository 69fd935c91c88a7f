"""Distribution apps: classes that serve requests below the base path of a distribution."""

from pulpcore.content_star.distributions import (  # noqa: F401
    artifact,
    checkpoint,
    openpgp,
    publication,
)
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.registry import app_of
from pulpcore.plugin.models import Distribution


def registered_app_for(distribution: Distribution) -> type[DistributionApp]:
    """Return the class that is registered for `distribution`."""
    return app_of(type(distribution), checkpoint=distribution.checkpoint)
