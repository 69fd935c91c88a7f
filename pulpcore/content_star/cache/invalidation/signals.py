"""Cache invalidation by Django's signals, for changes that this process itself commits.

Changes by the REST API take effect with their commit. Those that send no signal
(`QuerySet.update`, SQL) are received from the database, as those of other processes are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.signals import post_delete, post_save

from pulpcore.content_star.cache.store import ResponseCache
from pulpcore.plugin.models import (
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

_INVALIDATED_BY_PK = (
    Artifact,
    ContentArtifact,
    ContentGuard,
    Distribution,
    Domain,
    Remote,
    Repository,
)


@contextmanager
def signal_invalidation(cache: ResponseCache) -> Iterator[None]:
    """Invalidate entries of `cache` for rows that this process commits, until the block ends."""

    def on_change(instance: Any, **kwargs: Any) -> None:
        ids = list(_ids(instance))
        if ids:
            transaction.on_commit(partial(cache.invalidate, ids))
        if isinstance(instance, Distribution):
            above = partial(cache.invalidate_above, instance.pulp_domain_id, instance.base_path)
            transaction.on_commit(above)

    post_save.connect(on_change)
    post_delete.connect(on_change)
    try:
        yield
    finally:
        post_save.disconnect(on_change)
        post_delete.disconnect(on_change)


def _ids(instance: Any) -> Iterator[UUID]:
    """Yield the primary keys to invalidate when `instance` is saved or deleted."""
    if isinstance(instance, _INVALIDATED_BY_PK):
        yield instance.pk
    elif isinstance(instance, RepositoryVersion):
        yield instance.pk
        yield instance.repository_id
    elif isinstance(instance, Publication):
        yield instance.pk
        yield instance.repository_version.repository_id
