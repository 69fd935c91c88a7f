"""ORM queries: what a publication or a repository version holds at a path.

Whether a version contains a content unit is asked of `RepositoryContent`, whose rows are indexed
by repository and content. Upstream unnests the version's array of all its content ids instead,
which costs more the larger the repository is (pulpcore issue 8081).

Everything here blocks and runs behind the database door.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F, OuterRef, Q, QuerySet, Subquery

from pulpcore.app.models import (
    ContentArtifact,
    DistributedPublication,
    Distribution,
    Publication,
    PublishedArtifact,
    RepositoryContent,
    RepositoryVersion,
)
from pulpcore.app.util import retain_distributed_pub_enabled


@dataclass(frozen=True)
class Source:
    """Where a distribution takes its files from."""

    publication: Publication | None
    version: RepositoryVersion | None


@dataclass(frozen=True)
class Found:
    """A file of a publication or repository version."""

    content_artifact: ContentArtifact
    """With its `artifact` loaded, which is None if it is only known of (on demand)."""

    last_modified: datetime | None
    """When the content came into the repository, which is what clients see change at this path."""


def source_of(distribution: Distribution) -> Source:
    """Return what `distribution` serves now: an explicit publication or version, else the latest.

    A plugin's own `get_repository_publication_and_version` is asked if it has one.
    """
    resolve = type(distribution).get_repository_publication_and_version
    if resolve is not Distribution.get_repository_publication_and_version:
        _, version, publication = distribution.get_repository_publication_and_version()
        return Source(publication, version)
    if distribution.publication is not None:
        return Source(distribution.publication, distribution.publication.repository_version)
    if distribution.repository_version is not None:
        version = distribution.repository_version
        return Source(_latest_publication(distribution, repository_version=version), version)
    if distribution.repository is not None:
        repository = distribution.repository
        publication = _latest_publication(distribution, repository_version__repository=repository)
        version = publication.repository_version if publication else _latest_version(repository.pk)
        return Source(publication, version)
    return Source(None, None)


def file_in_publication(publication: Publication, path: str) -> Found | None:
    """Return the file published at `path`, or the repository's own in a pass-through one."""
    return file_published(publication, path) or (
        file_in_version(publication.repository_version, path) if publication.pass_through else None
    )


def file_published(publication: Publication, path: str) -> Found | None:
    """Return the published artifact or metadata at `path`."""
    version = publication.repository_version
    added = _members(version).filter(content_id=OuterRef("content_artifact__content_id"))
    published = (
        PublishedArtifact.objects.filter(publication=publication, relative_path=path)
        .select_related("content_artifact__artifact")
        .annotate(added=Subquery(added.values("pulp_created")[:1]))
        .first()
    )
    if published is None:
        return None
    return Found(published.content_artifact, published.added or version.pulp_created)


def file_in_version(version: RepositoryVersion, path: str) -> Found | None:
    """Return the file at `path` in a repository version, the newest if several claim the path."""
    member = "content__version_memberships"
    still_there = Q(**{f"{member}__version_removed": None}) | Q(
        **{f"{member}__version_removed__number__gt": version.number}
    )
    content_artifact = (
        ContentArtifact.objects.filter(
            still_there,
            relative_path=path,
            **{
                f"{member}__repository_id": version.repository_id,
                f"{member}__version_added__number__lte": version.number,
            },
        )
        .select_related("artifact")
        .annotate(added=F(f"{member}__pulp_created"))
        .order_by("-added")
        .first()
    )
    if content_artifact is None:
        return None
    return Found(content_artifact, content_artifact.added)


def find(content_artifact: ContentArtifact, version: RepositoryVersion | None) -> Found:
    """Complete a content artifact that a plugin found itself, most likely in `version`."""
    if version is None:
        return Found(content_artifact, None)
    added = _members(version).filter(content_id=content_artifact.content_id)
    date = added.values_list("pulp_created", flat=True).first()
    return Found(content_artifact, date or version.pulp_created)


def file_superseded(
    distribution: Distribution, path: str, current: Publication | None
) -> Found | None:
    """Return the file at `path` of a publication that was replaced within the grace period.

    `current` is the one that is served now and was looked into already. A client that read the old
    metadata still gets the packages it names (pulpcore issue 7514). A plugin's own
    `get_fallback_ca` is asked if it has one.
    """
    if type(distribution).get_fallback_ca is not Distribution.get_fallback_ca:
        return _plugin_fallback(distribution, path)
    for publication in _superseded(distribution, current):
        if found := file_in_publication(publication, path):
            return found
    return None


def _plugin_fallback(distribution: Distribution, path: str) -> Found | None:
    fallback = distribution.get_fallback_ca(path)
    if fallback is None:
        return None
    # Before pulpcore 3.121 the hook returned the content artifact alone.
    content_artifact, version = fallback if isinstance(fallback, tuple) else (fallback, None)
    return find(content_artifact, version)


def _superseded(distribution: Distribution, current: Publication | None) -> Iterator[Publication]:
    if not retain_distributed_pub_enabled():
        return
    kept = (
        DistributedPublication.get_non_expired()
        .filter(distribution=distribution)
        .exclude(publication=current)
        .order_by("-pulp_created")
        .select_related("publication__repository_version")
        .defer("publication__repository_version__content_ids")
    )
    for record in kept:
        yield record.publication


def _latest_publication(distribution: Distribution, **of: object) -> Publication | None:
    if not distribution.SERVE_FROM_PUBLICATION:
        return None
    return (
        Publication.objects.filter(complete=True, **of)
        .select_related("repository_version")
        .defer("repository_version__content_ids")
        .order_by("-repository_version__number", "-pulp_created")
        .first()
    )


def _latest_version(repository_pk: object) -> RepositoryVersion | None:
    return (
        RepositoryVersion.objects.filter(repository_id=repository_pk, complete=True)
        .defer("content_ids")
        .order_by("-number")
        .first()
    )


def _members(version: RepositoryVersion) -> QuerySet[RepositoryContent]:
    return RepositoryContent.objects.filter(
        Q(version_removed=None) | Q(version_removed__number__gt=version.number),
        repository_id=version.repository_id,
        version_added__number__lte=version.number,
    )
