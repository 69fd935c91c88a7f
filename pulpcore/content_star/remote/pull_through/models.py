"""ORM work for files that a distribution lacks and asks its remote for (pull-through).

Everything here blocks and runs behind the database door.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import ClientHttpProxyError, ClientResponseError
from django.db import IntegrityError, transaction

from pulpcore.app.models import (
    Artifact,
    Content,
    ContentArtifact,
    Domain,
    Remote,
    RemoteArtifact,
)
from pulpcore.content_star.remote.errors import RemoteUnavailable
from pulpcore.content_star.remote.pull_through.repository import add_to_repository, claim
from pulpcore.content_star.remote.request import AlreadySaved, FetchRequest, RemoteSource
from pulpcore.content_star.remote.save import store

# What a path below a directory raises when it names no file there.
_NO_SUCH_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class RemoteRefused(RemoteUnavailable):
    """The remote answered, with an HTTP status that says no."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f"The remote answered with status {self.status}."


@dataclass(frozen=True)
class PullThroughSource(RemoteSource):
    """The one remote that is asked."""

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
    """A file that a remote may have. Nothing is known of it but its URL there."""

    remote: UUID
    changed: datetime
    """When the remote was: what was had with other credentials is something else."""

    url: str = field(repr=False)
    path: str
    """Below the distribution's base path."""

    content_type: type[Content] | None
    """What the plugin makes of such a file; None for metadata, which is never saved."""

    repository: UUID | None
    """What gains the content, if its plugin wants that."""

    request: Any = field(compare=False, repr=False)
    """For the plugin to make further URLs with; None for metadata, which outlives it: it may have a
    password of the client that came first."""

    conditions: tuple[tuple[str, str], ...] = ()
    """Headers with which the remote is asked whether something has changed."""

    @property
    def name(self) -> str:
        return f"file {self.path!r}"

    @property
    def identity(self) -> str:
        return f"{self.url} at remote {self.remote}"

    def check_saved(self) -> None:
        """As `FetchRequest.check_saved`: there is content for the URL by now."""
        if find_content_artifact(self.remote, self.url) is not None:
            raise AlreadySaved

    def sources(self) -> list[RemoteSource]:
        """As `FetchRequest.sources`."""
        self.check_saved()
        remote = Remote.objects.get(pk=self.remote).cast()
        unsaved = RemoteArtifact(
            remote=remote, url=self.url, content_artifact=ContentArtifact(relative_path=self.path)
        )
        return [PullThroughSource(unsaved, remote, self.saves, self.conditions)]

    def save(self, path: str, attributes: Mapping[str, str | int]) -> None:
        """Make content of the file, as upstream does, and give it to the repository."""
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
        """Return the files of the content of `artifact`, be it new or there already."""
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
            content.touch()  # or orphan cleanup might take it before the repository has it
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
        """Write down where each file came from, so that it is found the next time."""
        remote = Remote.objects.get(pk=self.remote).cast()
        for file in files:
            is_this = file.relative_path == self.path
            url = self.url if is_this else _artifact_url(remote, file.relative_path, self.request)
            if url:
                # The remote may have had it elsewhere when it was last asked.
                RemoteArtifact.objects.update_or_create(
                    remote=remote,
                    content_artifact=file,
                    pulp_domain=self.domain,
                    defaults={"url": url},
                )

    def client_error(self, error: Exception | None) -> Exception | None:
        """Return what the remote itself said, as upstream does, where it said something."""
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
    """Return the file that `remote` may have at `url`, to be kept if it is content and `saves`."""
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
    """Return the file that Pulp knows to be at `url` of the remote, with its artifact if saved."""
    remote_artifact = (
        RemoteArtifact.objects.filter(remote=remote, url=url)
        .select_related("content_artifact__artifact")
        .order_by("-pulp_created")
        .first()
    )
    return remote_artifact and remote_artifact.content_artifact


def content_type_of(remote: Remote, path: str) -> type[Content] | None:
    """Return what the plugin makes of the file at `path`; None if it saves nothing."""
    try:
        return remote.get_remote_artifact_content_type(path)
    except NotImplementedError:  # the plugin has no pull-through
        return None


def remote_url(remote: Remote, path: str, request: Any) -> str | None:
    """Return where `remote` has `path`, which a client sent; None if it can have no such thing.

    Paths must not lead out of where the remote is, to another folder of the host that knows our
    credentials or to another directory of this machine.
    """
    if any(segment in (".", "..") for segment in path.replace("\\", "/").split("/")):
        return None
    if remote.url.lower().startswith("file:"):
        # Upstream's downloader takes these for the begin of a query or a fragment.
        return None if "?" in path or "#" in path else _artifact_url(remote, path, request)
    return _artifact_url(remote, path.translate(_URL_ESCAPES), request)


# To whom it was decoded for; everything else that URLs cannot have is encoded when it is sent.
_URL_ESCAPES = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})


def _artifact_url(remote: Remote, path: str, request: Any) -> str | None:
    url: str | None = remote.get_remote_artifact_url(path, request=request)
    return url or None
