"""What is wanted, and who has it: what fetching needs to know of both.

What blocks says so, and runs behind the database door.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.utils import timezone

from pulpcore.app.models import Artifact, Domain, Remote, RemoteArtifact


class AlreadySaved(Exception):
    """The file has been saved since it was looked up."""


class NotModified(Exception):
    """The remote has nothing newer than what it was asked about (304); it told these headers."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self.headers = headers


@dataclass(frozen=True)
class RemoteSource:
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
class FetchRequest(ABC):
    """A file that is to be fetched. Requests for equal ones share a download."""

    domain: Domain
    sha256: str | None
    size: int | None
    """In bytes; None if no remote said so, as for the sha256."""

    saves: bool
    """Whether the remote that is asked first wants its files kept."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the log may call it: no secret is in it."""

    @property
    def identity(self) -> str:
        """What it is called among processes."""
        return self.name

    @abstractmethod
    def check_saved(self) -> None:
        """Raise AlreadySaved if there is nothing to fetch any more. Blocks."""

    @abstractmethod
    def sources(self) -> list[RemoteSource]:
        """Return who has the file, in the order to be asked. Raises AlreadySaved. Blocks."""

    @abstractmethod
    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        """Keep the file at `path`, of that size and those digests. Blocks, and may come twice."""

    def client_error(self, error: Exception | None) -> Exception | None:
        """Return what clients are told if no source could send it, of which the last one raised
        `error`; None for what they are told of all that is wanted."""
        return None


def mark_failed(source: RemoteSource) -> None:
    """Leave `source` out for a while: what it sent is not what it announced. Blocks."""
    RemoteArtifact.objects.filter(pk=source.remote_artifact.pk).update(failed_at=timezone.now())
