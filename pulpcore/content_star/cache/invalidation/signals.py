"""Changes that this process commits itself, as the REST API does: known at once.

Django's signals tell them. What no signal tells (`QuerySet.update`, SQL) comes back from the
database, as from other processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.signals import post_delete, post_save

from pulpcore.app.models import (
    Artifact,
    ContentArtifact,
    ContentGuard,
    Distribution,
    Domain,
    Publication,
    Remote,
    Repository,
    RepositoryVersion,
)
from pulpcore.content_star.cache.store import ResponseCache

_BY_ID = (Artifact, ContentArtifact, ContentGuard, Distribution, Domain, Remote, Repository)


@contextmanager
def following(cache: ResponseCache) -> Iterator[None]:
    """Have `cache` forget what this process changes, until the block ends."""

    def changed(instance: Any, **kwargs: Any) -> None:
        ids = list(_ids(instance))
        if ids:
            transaction.on_commit(partial(cache.invalidate, ids))
        if isinstance(instance, Distribution):
            above = partial(cache.invalidate_above, instance.pulp_domain_id, instance.base_path)
            transaction.on_commit(above)

    post_save.connect(changed)
    post_delete.connect(changed)
    try:
        yield
    finally:
        post_save.disconnect(changed)
        post_delete.disconnect(changed)


def _ids(instance: Any) -> Iterator[UUID]:
    """Name the rows that have to be taken for changed when `instance` is saved or deleted."""
    if isinstance(instance, _BY_ID):
        yield instance.pk
    elif isinstance(instance, RepositoryVersion):
        yield instance.pk
        yield instance.repository_id
    elif isinstance(instance, Publication):
        yield instance.pk
        yield instance.repository_version.repository_id
