"""What a distribution does not have, asked of its remote."""

import asyncio
import logging
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.app.contexts import with_domain
from pulpcore.app.models import ContentArtifact, Domain, Remote
from pulpcore.content_star.auth.guards import GuardRequest
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.remote.download import SAVE_TIMEOUT
from pulpcore.content_star.remote.downloads import current_downloads
from pulpcore.content_star.remote.pull_through.models import (
    find_content_artifact,
    pull_through_request,
    remote_url,
)
from pulpcore.content_star.remote.pull_through.repository import add_to_repository, claim
from pulpcore.content_star.remote.pull_through.response import PullThroughResponse
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import Found

log = logging.getLogger(__name__)


def pull_through(app: DistributionApp) -> ASGIApp:
    """Answer with what the distribution's remote has at the path of `app`.

    A file that Pulp knows to be there is content on demand, or saved. Raises `HTTPException` 404
    for a path that the remote can have nothing at.
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
        response = app.file(Found(known, None), path)
        app.made_from = None  # what the remote's plugin makes of path and query may be another file
        return (
            response
            if repository is None
            else _Adding(response, repository, known, distribution.pulp_domain)
        )
    request_info(app.request.scope).source = "remote"
    saves = remote.policy != Remote.STREAMED
    domain = distribution.pulp_domain

    def again() -> ASGIApp:
        with with_domain(domain):
            return pull_through(app)

    fetch_request = pull_through_request(
        domain, remote, url, path, saves=saves, repository=repository, request=request
    )
    return PullThroughResponse(fetch_request, again, app.headers_for(path))


def _repository_of(app: DistributionApp) -> UUID | None:
    """Return the repository that gains what is pulled through, if its plugin wants that."""
    distribution = app.distribution
    if distribution.checkpoint:
        return None  # it shows what was
    version = app.source.version
    repository = distribution.repository or (version and version.repository)
    if repository is None:
        return None
    kind = type(repository.cast())
    return repository.pk if kind.PULL_THROUGH_SUPPORTED else None


class _Adding:
    """A response that first has its file added to a repository, as upstream does.

    That takes a moment; after SAVE_TIMEOUT the response does not wait for it any longer.
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
            adding = current_downloads().run_in_background(self._add)
            _, late = await asyncio.wait([adding], timeout=SAVE_TIMEOUT)
            if late:
                log.warning(
                    "Asking repository %s to add content %s takes more than %d s; the client gets"
                    " the file before. Check the load of the database.",
                    self.repository,
                    self.file.content_id,
                    SAVE_TIMEOUT,
                )
        await self.response(scope, receive, send)

    def _add(self) -> None:
        with with_domain(self.domain):
            add_to_repository(self.repository, self.file)
