"""Turns a fetched file into an artifact of its content. Blocks; runs behind the database door."""

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

from pulpcore.app.models import Artifact, ContentArtifact
from pulpcore.content_star.remote import temporary_file
from pulpcore.content_star.remote.errors import ContentRemoved

# How often to try where another process saves the same at the same time.
TRIES = 3

# Seconds to wait for the removal of a file. One that is still there is nobody's, and used.
REMOVAL_TIMEOUT = 5.0

_T = TypeVar("_T")


def save(content_artifact: UUID, path: str, attributes: Mapping[str, str | int]) -> None:
    """Make the file at `path` the content artifact's artifact, as `store` does. Raises Gone."""
    target = ContentArtifact.objects.filter(pk=content_artifact)
    if not target.exists():
        raise ContentRemoved("The content has been removed meanwhile.")
    # Not saved whole: content that has been removed meanwhile must not come back.
    store(path, attributes, lambda artifact: target.update(artifact=artifact))


def store(path: str, attributes: Mapping[str, str | int], refer: Callable[[Artifact], _T]) -> _T:
    """Store the file at `path`, in the current domain, as an artifact that `use` refers to, in the
    same transaction. Returns what `use` does, which may be called several times.

    `attributes` are its size and digests. The file at `path` stays: the storage may take away what
    it is given, and this may be done again when the database connection is lost.
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
        # Locked, so that orphan cleanup has either removed it by now or finds that it is used.
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
    """Wait while there is a file of `artifact` and no artifact: orphan cleanup removes it in a
    moment, and would remove ours. Or another process is about to save the same."""
    storage, name = artifact.file.storage, artifact.storage_path("")
    existing = Artifact.objects.filter(artifact.q())
    deadline = time.monotonic() + REMOVAL_TIMEOUT
    while storage.exists(name) and not existing.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _restore_file(artifact: Artifact, path: str) -> None:
    """Store the file again if orphan cleanup took ours for the one that it had to remove.

    It does that after it has removed the artifact of before from the database.
    """
    storage = artifact.file.storage
    if not storage.exists(artifact.file.name):
        with _second_name(path) as copy, Path(copy).open("rb") as stream:
            storage.save(artifact.file.name, File(stream))


@contextmanager
def _second_name(path: str) -> Iterator[str]:
    """Give the file another name beside its own, or copy it where the file system has no links."""
    copy = f"{path}-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        stack.callback(_remove, copy)
        try:
            os.link(path, copy)  # locked as the one file that both are
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
