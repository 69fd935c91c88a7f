"""Pull-through: serve files from the remote of a distribution."""

import asyncio
import logging
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.auth.guards import GuardRequest
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.listings.facts_query import facts_query
from pulpcore.content_star.remote.download import LAST_BYTE_TIMEOUT
from pulpcore.content_star.remote.pull_through.models import (
    find_content_artifact,
    pull_through_request,
    remote_url,
)
from pulpcore.content_star.remote.pull_through.repository import add_to_repository, claim
from pulpcore.content_star.remote.pull_through.response import PullThroughResponse
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import ResolvedFile
from pulpcore.content_star.resources import resources_of
from pulpcore.content_star.upstream import with_domain
from pulpcore.plugin.models import ContentArtifact, Domain, Remote

log = logging.getLogger(__name__)

# Seconds for which a client waits for its response while the file is added to the repository: as
# long as for the last byte while a file is saved.
ADD_TIMEOUT = LAST_BYTE_TIMEOUT


def pull_through(app: DistributionApp) -> ASGIApp:
    """Return the pull-through response for the path of `app`.

    A file of the remote that is already content of Pulp is served as such, saved or on demand.
    Raises `HTTPException` 404 for a path that the remote has no URL for, and for facts about a file
    that has not been fetched yet.
    """
    distribution, path = app.distribution, app.path
    remote = distribution.remote.cast()
    request = GuardRequest(app.request, distribution, f"{distribution.base_path}/{path}")
    url = remote_url(remote, path, request)
    if url is None:
        raise HTTPException(404, f"Distribution '{distribution.name}' has no '{path}'.")
    repository = _repository_of(app)
    known = find_content_artifact(remote.pk, url)
    if known is not None:
        response = app.file(ResolvedFile(known, None), path)
        app.dependencies = None  # the plugin may map path and query to another file next time
        return (
            response
            if repository is None
            else _AddToRepository(response, repository, known, distribution.pulp_domain)
        )
    if facts_query(app.request.scope):
        raise HTTPException(404, f"Nothing is known yet about '{path}' of the remote.")
    request_info(app.request.scope).source = "remote"
    saves = remote.policy != Remote.STREAMED
    domain = distribution.pulp_domain

    def respond_again() -> ASGIApp:
        with with_domain(domain):
            return pull_through(app)

    fetch_request = pull_through_request(
        domain, remote, url, path, saves=saves, repository=repository, request=request
    )
    return PullThroughResponse(fetch_request, respond_again, app.headers_for(path))


def _repository_of(app: DistributionApp) -> UUID | None:
    """Return the repository to add files to, if its plugin supports pull-through, or None."""
    distribution = app.distribution
    if distribution.checkpoint:
        return None  # checkpoints are immutable
    version = app.source.version
    repository = distribution.repository or (version and version.repository)
    if repository is None:
        return None
    kind = type(repository.cast())
    return repository.pk if kind.PULL_THROUGH_SUPPORTED else None


class _AddToRepository:
    """ASGI application that adds a file to a repository before it sends the response, as upstream.

    Waits for ADD_TIMEOUT seconds at most, and then sends the response first.
    """

    def __init__(
        self, response: ASGIApp, repository: UUID, file: ContentArtifact, domain: Domain
    ) -> None:
        self.response = response
        self.repository = repository
        self.file = file
        self.domain = domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if claim(self.repository, self.file):
            description = f"Adding content {self.file.content_id} to repository {self.repository}"
            adding = resources_of(scope).downloads.run_in_background(self._add, description)
            _, late = await asyncio.wait([adding], timeout=ADD_TIMEOUT)
            if late:
                log.warning(
                    "Adding content %s to repository %s takes over %d s; sending the file first."
                    " Check the load of the database.",
                    self.file.content_id,
                    self.repository,
                    ADD_TIMEOUT,
                )
        await self.response(scope, receive, send)

    def _add(self) -> None:
        with with_domain(self.domain):
            add_to_repository(self.repository, self.file)
