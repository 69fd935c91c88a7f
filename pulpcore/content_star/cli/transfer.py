"""Transfer of files to Pulp as content units, which are not in a repository yet.

A worker on this machine syncs them from a local server in one task; to another Pulp they are
uploaded one by one.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, BinaryIO

from pulp_glue.common.exceptions import PulpHTTPError
from pulp_glue.core.context import PulpArtifactContext
from pulp_glue.file.context import (
    PulpFileContentContext,
    PulpFileRemoteContext,
    PulpFileRepositoryContext,
)

from pulpcore.content_star.cli import manifest
from pulpcore.content_star.cli.folder import File, Folder, open_file
from pulpcore.content_star.cli.pulp import Pulp, Task

Entity = dict[str, Any]
OnFiles = Callable[[int], object]
"""Called with the number of files that have been transferred since the last call."""


@contextmanager
def synced(pulp: Pulp, name: str, files: list[File], on_files: OnFiles) -> Iterator[list[str]]:
    """Sync files from a local server, and yield the hrefs of their content units.

    The sync uses a temporary repository, which exists during the block, so that only changed files
    are listed, and the target repository gets one new version as with uploads.
    """
    if not files:
        yield []
        return
    temporary_name = f"pulp-star add {name} {secrets.token_hex(4)}"
    with manifest.served(files) as url, _temporary(pulp, temporary_name, url) as repository:
        counter = _Counter(len(files), on_files)
        pulp.run(
            repository.call,
            "sync",
            parameters={repository.HREF: repository.pulp_href},
            body={"mirror": False},
            on_progress=counter.read,
        )
        counter.finish()
        version = repository.show()["latest_version_href"]
        yield [unit["pulp_href"] for unit in repository_content(pulp, version)]


@contextmanager
def _temporary(pulp: Pulp, name: str, url: str) -> Iterator[PulpFileRepositoryContext]:
    """Create a temporary repository and remote, and delete them after the block."""
    repository = PulpFileRepositoryContext(pulp.context)
    remote = PulpFileRemoteContext(pulp.context)
    try:
        remote.create({"name": name, "url": url, "policy": "immediate", "max_retries": 1})
        repository.create({"name": name, "remote": remote.pulp_href})
        yield repository
    finally:
        for context in (repository, remote):
            if context.tangible:
                context.delete(non_blocking=True)


def uploaded(
    pulp: Pulp, files: list[File], folder: Folder, on_files: OnFiles
) -> tuple[list[str], list[File]]:
    """Upload files one by one; return the hrefs of their content units, and refused files.

    Pulp's API refuses names that its sync accepts: those with spaces, `?` or `#`.
    """
    units, refused = [], []
    for file in files:
        try:
            units.append(_upload(pulp, file))
        except (PulpHTTPError, _UnreadableError) as error:
            if not _is_file_error(error):
                raise
            reason = error.args[0] if isinstance(error, _UnreadableError) else _ONLY_BY_SYNC
            folder.skip(file.relative_path, reason)
            refused.append(file)
        on_files(1)
    return units, refused


def repository_content(pulp: Pulp, version: str) -> Iterable[Entity]:
    """Return the content units of a repository version."""
    fields = ["pulp_href", "relative_path", "sha256"]
    parameters = {"repository_version": version, "fields": fields}
    return PulpFileContentContext(pulp.context).list_iterator(parameters)


def count(pulp: Pulp, version: str) -> int:
    """Return the number of files in a repository version."""
    parameters = {"repository_version": version, "limit": 1, "fields": ["pulp_href"]}
    return int(PulpFileContentContext(pulp.context).call("list", parameters=parameters)["count"])


_ONLY_BY_SYNC = "Pulp accepts such a name only with --transfer sync"


class _UnreadableError(Exception):
    """A file was hashed, but cannot be read for the upload."""


def _is_file_error(error: PulpHTTPError | _UnreadableError) -> bool:
    if isinstance(error, _UnreadableError):
        return True
    return error.status_code == HTTPStatus.BAD_REQUEST and "relative_path" in str(error)


def _upload(pulp: Pulp, file: File) -> str:
    """Upload a file unless Pulp has its content unit or artifact; return the unit's href."""
    content = PulpFileContentContext(pulp.context)
    known = {"relative_path": file.relative_path, "sha256": file.sha256}
    for unit in content.list_iterator(known, batch_size=1):
        return str(unit["pulp_href"])
    body: Entity = {"relative_path": file.relative_path}
    artifacts = PulpArtifactContext(pulp.context)
    for artifact in artifacts.list_iterator({"sha256": file.sha256}, batch_size=1):
        return _created(pulp.run(content.create, {**body, "artifact": artifact["pulp_href"]}))
    with _readable(file) as stream:
        return _created(pulp.run(content.create, {**body, "file": stream}))


@contextmanager
def _readable(file: File) -> Iterator[BinaryIO]:
    try:
        stream = open_file(file.path)
    except OSError as error:
        raise _UnreadableError(error.strerror) from error
    with stream:
        yield stream


def _created(task: Task) -> str:
    return str(task["created_resources"][0])


class _Counter:
    """Converts the progress reports of a sync task to numbers of transferred files."""

    def __init__(self, total: int, on_files: OnFiles) -> None:
        self.total = total
        self.seen = 0
        self.on_files = on_files

    def read(self, task: Task) -> None:
        """Read the progress reports of the task."""
        for report in task["progress_reports"]:
            if report["code"] == "sync.downloading.artifacts":
                self._advance(report["done"])

    def finish(self) -> None:
        """Count the remaining files: Pulp does not report those that it has already."""
        self._advance(self.total)

    def _advance(self, done: int) -> None:
        self.on_files(done - self.seen)
        self.seen = done
