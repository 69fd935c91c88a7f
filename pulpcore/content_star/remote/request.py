"""Fetch requests and the remote sources that can answer them.

Methods documented as blocking run in a database executor.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.utils import timezone

from pulpcore.plugin.models import Artifact, Domain, Remote, RemoteArtifact


class AlreadySaved(Exception):
    """The file was saved after it had been looked up."""


class NotModified(Exception):
    """The remote answered a conditional request with 304; `headers` are those of its response."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self.headers = headers


@dataclass(frozen=True)
class RemoteSource:
    """A remote from which a file can be fetched."""

    remote_artifact: RemoteArtifact
    remote: Any = field(repr=False)
    """The plugin's remote, which makes the downloader. Not shared between downloads."""

    @property
    def saves(self) -> bool:
        """Whether files from this remote are saved."""
        return bool(self.remote.policy != Remote.STREAMED)

    @property
    def digests(self) -> dict[str, str]:
        """Digests announced by the remote, by algorithm; only those that this Pulp allows."""
        named = {name: getattr(self.remote_artifact, name) for name in Artifact.DIGEST_FIELDS}
        return {name: digest for name, digest in named.items() if digest}

    @property
    def conditions(self) -> Mapping[str, str]:
        """Headers of a conditional HTTP request (RFC 9110 section 13).

        A 304 response raises `NotModified`.
        """
        return MappingProxyType({})


@dataclass(frozen=True)
class FetchRequest(ABC):
    """A file to fetch. Equal requests share a download."""

    domain: Domain
    sha256: str | None
    size: int | None
    """In bytes; None if no remote announced it. The same holds for `sha256`."""

    saves: bool
    """Whether the file is to be saved, by the policy of the first source."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for log lines and errors, free of secrets."""

    @property
    def identity(self) -> str:
        """Identity for the fetch lock, the same in all processes. May be confidential."""
        return self.name

    @abstractmethod
    def check_saved(self) -> None:
        """Raise AlreadySaved if the file has been saved. Blocks."""

    @abstractmethod
    def sources(self) -> list[RemoteSource]:
        """Return the sources in the order to try them. Raises AlreadySaved. Blocks."""

    @abstractmethod
    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        """Save the file at `path` with its size and digests. Blocks; may be called twice."""

    def client_error(self, error: Exception | None) -> Exception | None:
        """Return the exception to raise for clients after the last source raised `error`.

        None stands for the default, `errors.failure_of`.
        """
        return None


async def mark_failed(source: RemoteSource) -> None:
    """Exclude `source` for the cooldown period, since it sent a mismatching file."""
    sent = RemoteArtifact.objects.filter(pk=source.remote_artifact.pk)
    await sent.aupdate(failed_at=timezone.now())
