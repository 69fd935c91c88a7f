"""ORM queries: what is known of a file that is not saved, and which remotes have it.

Everything here blocks and runs behind the database door.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone

from pulpcore.app.models import ContentArtifact, Domain, Remote, RemoteArtifact
from pulpcore.content_star.remote.request import AlreadySaved, FetchRequest, RemoteSource
from pulpcore.content_star.remote.save import save


class NoRemote(Exception):
    """No remote has the file any more, so it cannot be had from anywhere."""


@dataclass(frozen=True)
class OnDemandRequest(FetchRequest):
    """A file that Pulp knows, and what its remotes have said of it."""

    content_artifact: UUID

    @property
    def name(self) -> str:
        return f"content artifact {self.content_artifact}"

    def check_saved(self) -> None:
        """As `FetchRequest.check_saved`."""
        saved = ContentArtifact.objects.filter(pk=self.content_artifact, artifact__isnull=False)
        if saved.exists():
            raise AlreadySaved

    def sources(self) -> list[RemoteSource]:
        """As `FetchRequest.sources`: alternate content sources come first.

        Remotes that sent something wrong are left out for a while, as upstream does.
        """
        self.check_saved()
        cooldown = timedelta(seconds=settings.REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN)
        offers = _offers(self.content_artifact).exclude(failed_at__gte=timezone.now() - cooldown)
        return [
            RemoteSource(offer, offer.remote.cast()) for offer in offers.select_related("remote")
        ]

    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        save(self.content_artifact, path, attributes)


def wanted(content_artifact: ContentArtifact, domain: Domain) -> OnDemandRequest:
    """Return what there is to know of a file before it is fetched. Raises NoRemote."""
    offers = list(_offers(content_artifact.pk).annotate(policy=F("remote__policy")))
    if not offers:
        raise NoRemote
    sha256 = next((offer.sha256 for offer in offers if offer.sha256), None)
    size = next((offer.size for offer in offers if offer.size is not None), None)
    saves = offers[0].policy != Remote.STREAMED
    return OnDemandRequest(domain, sha256, size, saves, content_artifact.pk)


def _offers(content_artifact: UUID) -> QuerySet[RemoteArtifact]:
    offers = RemoteArtifact.objects.filter(content_artifact=content_artifact).order_by_acs()
    # Equal ones in one order for all requests, or they would not want the same.
    return offers.order_by(*offers.query.order_by, "pulp_created", "pk")
