"""What a publication or a repository version holds at a path; the SQL is in `queries.py`.

Whether a version contains a content unit is asked of `RepositoryContent`, whose rows are indexed
by repository and content. Upstream unnests the version's array of all its content ids instead,
which costs more the larger the repository is (pulpcore issue 8081).

Everything here blocks and runs behind the database door.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from pulpcore.app.models import (
    Artifact,
    ContentArtifact,
    DistributedPublication,
    Distribution,
    Publication,
    RepositoryContent,
    RepositoryVersion,
)
from pulpcore.app.util import retain_distributed_pub_enabled
from pulpcore.content_star.database import queries
from pulpcore.content_star.database.prepared import Query, Row


@dataclass(frozen=True)
class ContentSource:
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

    is_published: bool = False
    """Whether publishing put it at the path, rather than the repository's own content."""


def source_of(distribution: Distribution) -> ContentSource:
    """Return what `distribution` serves now: an explicit publication or version, else the latest.

    A plugin's own `get_repository_publication_and_version` is asked if it has one.
    """
    resolve = type(distribution).get_repository_publication_and_version
    if resolve is not Distribution.get_repository_publication_and_version:
        _, version, publication = distribution.get_repository_publication_and_version()
        return ContentSource(publication, version)
    if distribution.publication is not None:
        return ContentSource(distribution.publication, distribution.publication.repository_version)
    if distribution.repository_version is not None:
        version = distribution.repository_version
        return ContentSource(_latest_publication_of_version(distribution, version), version)
    if distribution.repository_id is not None:
        publication = _latest_publication(distribution)
        if publication is not None:
            return ContentSource(publication, publication.repository_version)
        return ContentSource(None, _latest_version(distribution.repository_id))
    return ContentSource(None, None)


def files(source: ContentSource, paths: Sequence[str]) -> dict[str, Found]:
    """Return the files that `source` serves at those of `paths` where there is one.

    That is what is published there, or the repository's own in a publication that passes them
    through; without a publication what the version contains, the newest if several claim a path.
    """
    if source.publication is not None:
        return files_in_publication(source.publication, paths)
    return _files(queries.FILES_CONTAINED, source.version, paths)


def files_in_publication(publication: Publication, paths: Sequence[str]) -> dict[str, Found]:
    """Return the files of `publication` at those of `paths` where there is one."""
    query = queries.FILES_PASSED_THROUGH if publication.pass_through else queries.FILES_PUBLISHED
    return _files(query, publication.repository_version, paths, publication)


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
        if found := files_in_publication(publication, [path]).get(path):
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
    entry = (
        DistributedPublication.get_non_expired()
        .filter(distribution=distribution)
        .exclude(publication=current)
        .order_by("-pulp_created")
        .select_related("publication__repository_version")
        .defer("publication__repository_version__content_ids")
    )
    for record in entry:
        yield record.publication


def _files(
    query: Query,
    version: RepositoryVersion,
    paths: Sequence[str],
    publication: Publication | None = None,
) -> dict[str, Found]:
    parameters = {
        "paths": paths,
        "repository": version.repository_id,
        "number": version.number,
    }
    if publication is not None:
        parameters["publication"] = publication.pk
    return {row.value(): _found(row, version) for row in query.all(parameters)}


def _found(row: Row, version: RepositoryVersion) -> Found:
    is_published, added = row.value(), row.value()
    content_artifact = row.instance(ContentArtifact)
    content_artifact.artifact = row.instance(Artifact)
    # Metadata is no content of the version: it is as old as that.
    date = added or (version.pulp_created if is_published else None)
    return Found(content_artifact, date, is_published)


def _latest_publication_of_version(
    distribution: Distribution, version: RepositoryVersion
) -> Publication | None:
    if not distribution.SERVE_FROM_PUBLICATION:
        return None
    row = queries.LATEST_PUBLICATION_OF_VERSION.one({"version": version.pk})
    return row and _published(row, version)


def _latest_publication(distribution: Distribution) -> Publication | None:
    if not distribution.SERVE_FROM_PUBLICATION:
        return None
    row = queries.LATEST_PUBLICATION.one({"repository": distribution.repository_id})
    return row and _published(row, row.instance(RepositoryVersion))


def _published(row: Row, version: RepositoryVersion) -> Publication:
    publication = row.instance(Publication)
    publication.repository_version = version
    return publication


def _latest_version(repository_pk: object) -> RepositoryVersion | None:
    row = queries.LATEST_VERSION.one({"repository": repository_pk})
    return row and row.instance(RepositoryVersion)


def _members(version: RepositoryVersion) -> QuerySet[RepositoryContent]:
    return RepositoryContent.objects.filter(
        Q(version_removed=None) | Q(version_removed__number__gt=version.number),
        repository_id=version.repository_id,
        version_added__number__lte=version.number,
    )
