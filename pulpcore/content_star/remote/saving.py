"""Turns a fetched file into an artifact of its content. Blocks; runs behind the database door."""

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from django.db import IntegrityError, transaction

from pulpcore.app.models import Artifact, ContentArtifact
from pulpcore.content_star.remote.sources import Wanted


def save(file: Wanted, path: str, attributes: Mapping[str, str | int]) -> None:
    """Store the file at `path`, in the current domain, as the artifact of the content.

    `attributes` are its size and digests. The file at `path` stays: the storage may take away what
    it is given, and this may be done again when the database connection is lost.
    """
    copy = _another(path)
    try:
        with transaction.atomic():
            artifact = _artifact(copy, attributes)
            # Not saved whole: content that has been removed meanwhile must not come back.
            ContentArtifact.objects.filter(pk=file.content_artifact).update(artifact=artifact)
    finally:
        with suppress(FileNotFoundError):
            Path(copy).unlink()


def _artifact(path: str, attributes: Mapping[str, str | int]) -> Artifact:
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


def _another(path: str) -> str:
    """Give the file another name beside its own, or copy it where the file system has no links."""
    copy = f"{path}-{uuid.uuid4().hex[:8]}"
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)
    return copy
