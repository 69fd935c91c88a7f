"""Pulpcore's own distribution of OpenPGP keys."""

from starlette.responses import Response
from starlette.types import ASGIApp

from pulpcore.app.models import OpenPGPDistribution
from pulpcore.content_star.distributions.published import PublishedApp
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.responses.headers import SECURITY_HEADERS


@serves(OpenPGPDistribution)
class OpenPGPApp(PublishedApp):
    """Serves `<key id>.pub`, a file that the model makes of the keys in the repository."""

    def from_plugin(self) -> ASGIApp | None:
        distribution = self.distribution
        if distribution.repository is None and distribution.repository_version is None:
            return None  # the model expects one
        key = distribution.content_handler(self.path)
        if key is None:
            return None
        headers = {"Content-Type": key.headers["Content-Type"], **SECURITY_HEADERS}
        return Response(key.body, headers=headers)
