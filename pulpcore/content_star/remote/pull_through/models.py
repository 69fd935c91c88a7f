"""ORM work of pull-through: files that a distribution lacks and its remote may have.

Everything here blocks and runs in the database executor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import ClientHttpProxyError, ClientResponseError
from django.db import IntegrityError, transaction

from pulpcore.content_star.remote.errors import RemoteUnavailable
from pulpcore.content_star.remote.pull_through.repository import add_to_repository, claim
from pulpcore.content_star.remote.request import AlreadySaved, FetchRequest, RemoteSource
from pulpcore.content_star.remote.save import store
from pulpcore.plugin.models import (
    Artifact,
    Content,
    ContentArtifact,
    Domain,
    Remote,
    RemoteArtifact,
)

# Exceptions for a `file:` path that does not name a file.
_NO_SUCH_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class RemoteRefused(RemoteUnavailable):
    """The remote answered with the HTTP error `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f"The remote answered with status {self.status}."


@dataclass(frozen=True)
class PullThroughSource(RemoteSource):
    """The remote of the distribution, the only source of the request."""

    is_saved: bool
    condition_fields: tuple[tuple[str, str], ...]

    @property
    def saves(self) -> bool:
        return self.is_saved

    @property
    def conditions(self) -> Mapping[str, str]:
        return dict(self.condition_fields)


@dataclass(frozen=True)
class PullThroughRequest(FetchRequest):
    """Request for a file that the remote may have at `url`; neither size nor digest is known."""

    remote: UUID
    changed: datetime
    """Last update of the remote: with other credentials it may send another file."""

    url: str = field(repr=False)
    path: str
    """Path below the base path of the distribution."""

    content_type: type[Content] | None
    """Content class of the file; None for metadata, which is never saved."""

    repository: UUID | None
    """Repository that the content is added to; None if its plugin does not support that."""

    request: Any = field(compare=False, repr=False)
    """HTTP request of the client, from which the plugin builds further URLs; None for metadata.

    Metadata is cached longer than the request lives, and the request may contain a password.
    """

    conditions: tuple[tuple[str, str], ...] = ()
    """Headers of a conditional request (RFC 9110 section 13.1), as pairs."""

    @property
    def name(self) -> str:
        return f"file {self.path!r}"

    @property
    def identity(self) -> str:
        return f"{self.url} at remote {self.remote}"

    def check_saved(self) -> None:
        """Raise AlreadySaved if a content artifact for the URL exists."""
        if find_content_artifact(self.remote, self.url) is not None:
            raise AlreadySaved

    def sources(self) -> list[RemoteSource]:
        """Return the remote of the distribution. Raises AlreadySaved."""
        self.check_saved()
        remote = Remote.objects.get(pk=self.remote).cast()
        unsaved = RemoteArtifact(
            remote=remote, url=self.url, content_artifact=ContentArtifact(relative_path=self.path)
        )
        return [PullThroughSource(unsaved, remote, self.saves, self.conditions)]

    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        """Save the file as content of the plugin, as upstream, and add it to the repository."""
        files = store(path, attributes, self._store_content)
        if self.repository is not None:
            saved = next((file for file in files if file.relative_path == self.path), None)
            file = saved or files[0]
            if claim(self.repository, file):
                add_to_repository(self.repository, file)

    def _store_content(self, artifact: Artifact) -> list[ContentArtifact]:
        files = self._content_artifacts(artifact)
        self._record_urls(files)
        return files

    def _content_artifacts(self, artifact: Artifact) -> list[ContentArtifact]:
        """Return the content artifacts of the content of `artifact`, creating it if needed."""
        assert self.content_type is not None
        initialized = self.content_type.init_from_artifact_and_relative_path(artifact, self.path)
        content, artifacts = (
            initialized if isinstance(initialized, tuple) else (initialized, {self.path: artifact})
        )
        try:
            with transaction.atomic():
                content.save()
        except IntegrityError:
            content = self.content_type.objects.get(content.q())
            content.touch()  # protects it from orphan cleanup until the repository has it
        files = list(content.contentartifact_set.select_related("artifact"))
        if not files or any(file.artifact is None for file in files):
            known_paths = {file.relative_path for file in files}
            ContentArtifact.objects.bulk_create(
                [
                    ContentArtifact(content=content, relative_path=path, artifact=file_artifact)
                    for path, file_artifact in artifacts.items()
                    if file_artifact is not None or path not in known_paths
                ],
                update_conflicts=True,
                update_fields=["artifact"],
                unique_fields=["content", "relative_path"],
            )
            files = list(content.contentartifact_set.select_related("artifact"))
        return files

    def _record_urls(self, files: list[ContentArtifact]) -> None:
        """Record the URL of each content artifact, so that later requests find it."""
        remote = Remote.objects.get(pk=self.remote).cast()
        for file in files:
            is_this = file.relative_path == self.path
            url = self.url if is_this else _artifact_url(remote, file.relative_path, self.request)
            if url:
                # Not `create`: the remote may have had the file at another URL.
                RemoteArtifact.objects.update_or_create(
                    remote=remote,
                    content_artifact=file,
                    pulp_domain=self.domain,
                    defaults={"url": url},
                )

    def client_error(self, error: Exception | None) -> Exception | None:
        """Return RemoteRefused with the status of the remote, as upstream; else None."""
        if isinstance(error, _NO_SUCH_FILE):
            return RemoteRefused(404)
        if isinstance(error, ClientHttpProxyError):
            return None
        if isinstance(error, ClientResponseError) and error.status >= 400:
            return RemoteRefused(error.status)
        return None


def pull_through_request(
    domain: Domain,
    remote: Remote,
    url: str,
    path: str,
    *,
    saves: bool,
    repository: UUID | None,
    request: Any,
) -> PullThroughRequest:
    """Return the fetch request for the file that `remote` may have at `url`.

    It is saved if `saves` and the plugin has a content class for `path`.
    """
    content_type = content_type_of(remote, path)
    return PullThroughRequest(
        domain=domain,
        sha256=None,
        size=None,
        saves=saves and content_type is not None,
        remote=remote.pk,
        changed=remote.pulp_last_updated,
        url=url,
        path=path,
        content_type=content_type,
        repository=repository,
        request=request if content_type is not None else None,
    )


def find_content_artifact(remote: UUID, url: str) -> ContentArtifact | None:
    """Return the content artifact, with its artifact, that `url` of the remote is known for."""
    remote_artifact = (
        RemoteArtifact.objects.filter(remote=remote, url=url)
        .select_related("content_artifact__artifact")
        .order_by("-pulp_created")
        .first()
    )
    return remote_artifact and remote_artifact.content_artifact


def content_type_of(remote: Remote, path: str) -> type[Content] | None:
    """Return the content class for the file at `path`; None if the plugin saves no such file."""
    try:
        return remote.get_remote_artifact_content_type(path)
    except NotImplementedError:  # the plugin does not support pull-through
        return None


def remote_url(remote: Remote, path: str, request: Any) -> str | None:
    """Return the URL of the client's `path` at `remote`; None if it cannot have such a path.

    Rejects dot segments: a path must not leave the URL of the remote, to another folder of a host
    that accepts its credentials or to another directory of this machine.
    """
    if any(segment in (".", "..") for segment in path.replace("\\", "/").split("/")):
        return None
    if remote.url.lower().startswith("file:"):
        # Upstream's downloader takes these for the start of a query or a fragment.
        return None if "?" in path or "#" in path else _artifact_url(remote, path, request)
    return _artifact_url(remote, path.translate(_URL_ESCAPES), request)


# Paths are decoded, so these would change their meaning in a URL. The HTTP client encodes all other
# characters.
_URL_ESCAPES = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})


def _artifact_url(remote: Remote, path: str, request: Any) -> str | None:
    url: str | None = remote.get_remote_artifact_url(path, request=request)
    return url or None
