"""Save a fetched file as the artifact of its content. Blocks; runs in a database executor."""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from django.core.files import File
from django.db import IntegrityError, transaction

from pulpcore.content_star.remote import temporary_file
from pulpcore.content_star.remote.errors import ContentRemoved
from pulpcore.plugin.models import Artifact, ContentArtifact

# Attempts to save while other processes save the same artifact concurrently.
TRIES = 3

# Seconds to wait for the removal of a file without an artifact; then the file counts as abandoned
# and is reused.
REMOVAL_TIMEOUT = 5.0

_T = TypeVar("_T")


def save(content_artifact: UUID, path: str, attributes: Mapping[str, str | int]) -> None:
    """Save the file at `path` as the artifact of a content artifact. Raises ContentRemoved."""
    target = ContentArtifact.objects.filter(pk=content_artifact)
    if not target.exists():
        raise ContentRemoved("The content was removed while its file was fetched.")
    # An UPDATE, not `save()`: content that has been removed must not be created again.
    store(path, attributes, lambda artifact: target.update(artifact=artifact))


def store(path: str, attributes: Mapping[str, str | int], refer: Callable[[Artifact], _T]) -> _T:
    """Store the file at `path` as an artifact in the current domain.

    `refer` makes objects that refer to the artifact, in the same transaction; its result is
    returned, and it may be called several times. `attributes` are size and digests. The file at
    `path` remains: a storage may move the file it is given, and a lost database connection repeats
    the call.
    """
    for _ in range(TRIES - 1):
        with suppress(IntegrityError):
            return _store_once(path, attributes, refer)
    return _store_once(path, attributes, refer)


def _store_once(
    path: str, attributes: Mapping[str, str | int], refer: Callable[[Artifact], _T]
) -> _T:
    with _second_name(path) as copy, transaction.atomic():
        artifact = Artifact(**attributes, file=copy)
        # Locked: orphan cleanup has either removed the artifact by now or will find it in use.
        existing = Artifact.objects.filter(artifact.q()).select_for_update(no_key=True).first()
        if existing is None:
            _wait_for_removal(artifact)
            artifact.save()
        else:
            artifact = existing
            artifact.touch()
        result = refer(artifact)
    _restore_file(artifact, path)
    return result


def _wait_for_removal(artifact: Artifact) -> None:
    """Wait while the storage has a file for `artifact` but the database has no artifact.

    Either orphan cleanup is about to remove the file, and would remove the new one, or another
    process is about to save the same artifact. Waits at most REMOVAL_TIMEOUT.
    """
    storage, name = artifact.file.storage, artifact.storage_path("")
    existing = Artifact.objects.filter(artifact.q())
    deadline = time.monotonic() + REMOVAL_TIMEOUT
    while storage.exists(name) and not existing.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _restore_file(artifact: Artifact, path: str) -> None:
    """Store the file again if orphan cleanup has removed it.

    Cleanup deletes the file after the artifact row, by name, and may hit the file that was just
    stored.
    """
    storage = artifact.file.storage
    if not storage.exists(artifact.file.name):
        with _second_name(path) as copy, Path(copy).open("rb") as stream:
            storage.save(artifact.file.name, File(stream))


@contextmanager
def _second_name(path: str) -> Iterator[str]:
    """Hard-link the file to a second name beside it, or copy it if links are unsupported."""
    copy = f"{path}-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        stack.callback(_remove, copy)
        try:
            os.link(path, copy)  # one inode, so the lock holds for both names
        except OSError:
            target = stack.enter_context(Path(copy).open("xb"))
            temporary_file.lock(target.fileno())
            with Path(path).open("rb") as original:
                shutil.copyfileobj(original, target)
            target.flush()
        yield copy


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        Path(path).unlink()
