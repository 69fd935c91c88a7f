"""What is wanted of remotes; and the ORM queries for files that are known and not saved.

Everything here blocks and runs behind the database door.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from pulpcore.app.models import Artifact, ContentArtifact, Domain, Remote, RemoteArtifact
from pulpcore.content_star.remote.saving import save


class NoRemote(Exception):
    """No remote has the file any more, so it cannot be had from anywhere."""


class AlreadySaved(Exception):
    """The file has been saved since it was looked up."""


class NotModified(Exception):
    """The remote has nothing newer than what it was asked about (304)."""


class RemoteUnavailable(Exception):
    """No remote could be made to send the file. Neither URLs nor credentials are in the message."""


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

    @property
    def conditions(self) -> Mapping[str, str]:
        """Headers of a conditional request (RFC 9110 section 13), for remotes that are asked by
        HTTP; what they answer with 304 is `NotModified`."""
        return MappingProxyType({})


@dataclass(frozen=True)
class Wanted(ABC):
    """A file that is to be fetched. Requests for equal ones share a download."""

    domain: Domain
    sha256: str | None
    size: int | None
    """In bytes; None if no remote said so, as for the sha256."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the log may call it: no secret is in it."""

    @abstractmethod
    def sources(self) -> list[Source]:
        """Return who has the file, in the order to be asked. Raises AlreadySaved. Blocks."""

    @abstractmethod
    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        """Keep the file at `path`, of that size and those digests. Blocks, and may come twice."""

    def unavailable(self, error: Exception | None) -> RemoteUnavailable:
        """Return what clients are told if no source could send it; the last one raised `error`."""
        return RemoteUnavailable("No remote could send the file.")


@dataclass(frozen=True)
class OnDemand(Wanted):
    """A file that Pulp knows, and what its remotes have said of it."""

    content_artifact: UUID

    @property
    def name(self) -> str:
        return f"content artifact {self.content_artifact}"

    def sources(self) -> list[Source]:
        """As `Wanted.sources`: alternate content sources come first.

        Remotes that sent something wrong are left out for a while, as upstream does.
        """
        saved = ContentArtifact.objects.filter(pk=self.content_artifact, artifact__isnull=False)
        if saved.exists():
            raise AlreadySaved
        cooldown = timedelta(seconds=settings.REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN)
        offers = _offers(self.content_artifact).exclude(failed_at__gte=timezone.now() - cooldown)
        return [Source(offer, offer.remote.cast()) for offer in offers.select_related("remote")]

    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        save(self.content_artifact, path, attributes)


def wanted(content_artifact: ContentArtifact, domain: Domain) -> OnDemand:
    """Return what there is to know of a file before it is fetched. Raises NoRemote."""
    offers = list(_offers(content_artifact.pk))
    if not offers:
        raise NoRemote
    sha256 = next((offer.sha256 for offer in offers if offer.sha256), None)
    size = next((offer.size for offer in offers if offer.size is not None), None)
    return OnDemand(domain, sha256, size, content_artifact.pk)


def mark_failed(source: Source) -> None:
    """Leave `source` out for a while: what it sent is not what it announced."""
    RemoteArtifact.objects.filter(pk=source.remote_artifact.pk).update(failed_at=timezone.now())


def _offers(content_artifact: UUID) -> QuerySet[RemoteArtifact]:
    return RemoteArtifact.objects.filter(content_artifact=content_artifact).order_by_acs()
