"""ORM queries: what is known of a file that is not saved, and which remotes have it.

Everything here blocks and runs behind the database door.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone

from pulpcore.app.models import Artifact, ContentArtifact, Domain, Remote, RemoteArtifact


class NoRemote(Exception):
    """No remote has the file any more, so it cannot be had from anywhere."""


class AlreadySaved(Exception):
    """The file has been saved since it was looked up."""


@dataclass(frozen=True)
class Wanted:
    """A file that is to be fetched, and what its remotes have said of it.

    Requests for equal ones share a download.
    """

    content_artifact: UUID
    domain: Domain
    sha256: str | None
    size: int | None
    saves: bool = True
    """Whether the remote that is asked first wants its files kept."""

    @property
    def identity(self) -> str:
        """What it is called among processes, which elect one of them to fetch it."""
        return f"content artifact {self.content_artifact}"


@dataclass(frozen=True)
class Source:
    """A remote that has the file."""

    remote_artifact: RemoteArtifact
    remote: Any = field(repr=False)
    """The plugin's own remote, with its downloader; it belongs to one download alone."""

    @property
    def saves(self) -> bool:
        """Whether what comes from it is to be kept."""
        return bool(self.remote.policy != Remote.STREAMED)

    @property
    def digests(self) -> dict[str, str]:
        """What it has said of the bytes, by those algorithms that this Pulp trusts."""
        named = {name: getattr(self.remote_artifact, name) for name in Artifact.DIGEST_FIELDS}
        return {name: digest for name, digest in named.items() if digest}


def wanted(content_artifact: ContentArtifact, domain: Domain) -> Wanted:
    """Return what there is to know of a file before it is fetched. Raises NoRemote."""
    offers = list(_offers(content_artifact.pk).annotate(policy=F("remote__policy")))
    if not offers:
        raise NoRemote
    sha256 = next((offer.sha256 for offer in offers if offer.sha256), None)
    size = next((offer.size for offer in offers if offer.size is not None), None)
    return Wanted(content_artifact.pk, domain, sha256, size, offers[0].policy != Remote.STREAMED)


def check_saved(file: Wanted) -> None:
    """Raise AlreadySaved if there is nothing to fetch any more."""
    if ContentArtifact.objects.filter(pk=file.content_artifact, artifact__isnull=False).exists():
        raise AlreadySaved


def sources(file: Wanted) -> list[Source]:
    """Return who has the file, in the order to be asked: alternate content sources come first.

    Remotes that sent something wrong are left out for a while, as upstream does.
    Raises AlreadySaved.
    """
    check_saved(file)
    cooldown = timedelta(seconds=settings.REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN)
    offers = _offers(file.content_artifact).exclude(failed_at__gte=timezone.now() - cooldown)
    return [Source(offer, offer.remote.cast()) for offer in offers.select_related("remote")]


def mark_failed(source: Source) -> None:
    """Leave `source` out for a while: what it sent is not what it announced."""
    RemoteArtifact.objects.filter(pk=source.remote_artifact.pk).update(failed_at=timezone.now())


def _offers(content_artifact: UUID) -> QuerySet[RemoteArtifact]:
    return RemoteArtifact.objects.filter(content_artifact=content_artifact).order_by_acs()
