"""Distribution app of OpenPGP keys."""

from starlette.types import ASGIApp

from pulpcore.content_star.distributions.publication import PublicationApp
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.upstream import OpenPGPDistribution


@serves(OpenPGPDistribution)
class OpenPGPApp(PublicationApp):
    """Serve `<key id>.pub`, which the model generates from the keys in the repository."""

    def from_plugin(self) -> ASGIApp | None:
        distribution = self.distribution
        if distribution.repository is None and distribution.repository_version is None:
            return None  # the hook of the model requires one
        return super().from_plugin()
