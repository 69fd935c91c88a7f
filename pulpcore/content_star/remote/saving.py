"""Turns a fetched file into an artifact of its content. Blocks; runs behind the database door."""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from django.db import IntegrityError, transaction

from pulpcore.app.models import Artifact, ContentArtifact


def save(content_artifact: UUID, path: str, attributes: Mapping[str, str | int]) -> None:
    """Store the file at `path`, in the current domain, as the content artifact's artifact.

    `attributes` are its size and digests. The file at `path` stays: the storage may take away what
    it is given, and this may be done again when the database connection is lost.
    """
    with another(path) as copy, transaction.atomic():
        artifact = artifact_of(copy, attributes)
        # Not saved whole: content that has been removed meanwhile must not come back.
        ContentArtifact.objects.filter(pk=content_artifact).update(artifact=artifact)


def artifact_of(path: str, attributes: Mapping[str, str | int]) -> Artifact:
    """Return the artifact of the file at `path`, of that size and those digests: a new one, which
    takes the file away, or the one that there is."""
    artifact = Artifact(**attributes, file=path)
    try:
        with transaction.atomic():
            artifact.save()
    except IntegrityError:
        existing = Artifact.objects.filter(artifact.q()).first()
        if existing is None:
            # Orphan cleanup removed it between the two, and its file with it.
            raise
        existing.touch()
        return existing
    return artifact


@contextmanager
def another(path: str) -> Iterator[str]:
    """Give the file another name beside its own, or copy it where the file system has no links.

    The name is gone at the end of the block, if nobody has taken it away by then.
    """
    copy = f"{path}-{uuid.uuid4().hex[:8]}"
    try:
        try:
            os.link(path, copy)
        except OSError:
            shutil.copyfile(path, copy)
        yield copy
    finally:
        with suppress(FileNotFoundError):
            Path(copy).unlink()
