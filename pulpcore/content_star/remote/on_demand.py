"""ORM queries of on-demand content: content artifacts that are not saved, and their remotes.

Everything here blocks and runs in the database executor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone

from pulpcore.content_star.remote.request import AlreadySaved, FetchRequest, RemoteSource
from pulpcore.content_star.remote.save import save
from pulpcore.plugin.models import ContentArtifact, Domain, Remote, RemoteArtifact


class NoRemote(Exception):
    """No remote artifact is left for the file, so it cannot be fetched."""


@dataclass(frozen=True)
class OnDemandRequest(FetchRequest):
    """Request for a content artifact with remote artifacts."""

    content_artifact: UUID

    @property
    def name(self) -> str:
        return f"content artifact {self.content_artifact}"

    def check_saved(self) -> None:
        saved = ContentArtifact.objects.filter(pk=self.content_artifact, artifact__isnull=False)
        if saved.exists():
            raise AlreadySaved

    def sources(self) -> list[RemoteSource]:
        """Return the sources, alternate content sources first.

        Remotes that sent a mismatching file are excluded for REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN
        seconds, as upstream does.
        """
        self.check_saved()
        cooldown = timedelta(seconds=settings.REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN)
        found = _remote_artifacts(self.content_artifact).exclude(
            failed_at__gte=timezone.now() - cooldown
        )
        return [RemoteSource(each, each.remote.cast()) for each in found.select_related("remote")]

    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        save(self.content_artifact, path, attributes)


def on_demand_request(content_artifact: ContentArtifact, domain: Domain) -> OnDemandRequest:
    """Return the fetch request for a content artifact without an artifact.

    Size and sha256 are the first that a remote artifact has. Raises NoRemote.
    """
    found = list(_remote_artifacts(content_artifact.pk).annotate(policy=F("remote__policy")))
    if not found:
        raise NoRemote
    sha256 = next((each.sha256 for each in found if each.sha256), None)
    size = next((each.size for each in found if each.size is not None), None)
    saves = found[0].policy != Remote.STREAMED
    return OnDemandRequest(domain, sha256, size, saves, content_artifact.pk)


def _remote_artifacts(content_artifact: UUID) -> QuerySet[RemoteArtifact]:
    found = RemoteArtifact.objects.filter(content_artifact=content_artifact).order_by_acs()
    # One order for all requests: equal fetch requests share a download.
    return found.order_by(*found.query.order_by, "pulp_created", "pk")
