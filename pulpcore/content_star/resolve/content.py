"""Look up files of publications and repository versions by path; the SQL is in `queries.py`.

Whether a version contains a content unit is decided by `RepositoryContent`, which is indexed by
repository and content. Upstream unnests the version's array of content ids, at a cost that grows
with the repository (pulpcore issue 8081).

Everything here blocks and runs in the database executor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from pulpcore.content_star.database import queries
from pulpcore.content_star.database.prepared import Query, Row
from pulpcore.content_star.upstream import DistributedPublication, retain_distributed_pub_enabled
from pulpcore.plugin.models import (
    Artifact,
    ContentArtifact,
    Distribution,
    Publication,
    RepositoryContent,
    RepositoryVersion,
)


@dataclass(frozen=True)
class ContentSource:
    """Publication and repository version that a distribution serves files from."""

    publication: Publication | None
    version: RepositoryVersion | None


@dataclass(frozen=True)
class ResolvedFile:
    """A file of a publication or repository version."""

    content_artifact: ContentArtifact
    """With its `artifact` loaded, which is None for a file on demand."""

    last_modified: datetime | None
    """Time at which the content was added to the repository, for `Last-Modified`."""

    is_published: bool = False
    """Whether it was published at the path, rather than passed through from the repository."""


def served_source(distribution: Distribution) -> ContentSource:
    """Return the source of `distribution`: its publication or version, or the latest.

    Calls `get_repository_publication_and_version` if the plugin overrides it.
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


def files(source: ContentSource, paths: Sequence[str]) -> dict[str, ResolvedFile]:
    """Return the files that `source` serves, by path, for those of `paths` that exist.

    With a publication these are the published files, and the repository's own if it has
    `pass_through`; else the files of the version, the newest if several have the same path.
    """
    if source.publication is not None:
        return files_in_publication(source.publication, paths)
    return _files(queries.FILES_CONTAINED, source.version, paths)


def files_in_publication(publication: Publication, paths: Sequence[str]) -> dict[str, ResolvedFile]:
    """Return the files of `publication`, by path, for those of `paths` that exist."""
    query = queries.FILES_PASSED_THROUGH if publication.pass_through else queries.FILES_PUBLISHED
    return _files(query, publication.repository_version, paths, publication)


def file_of_content(
    content_artifact: ContentArtifact, version: RepositoryVersion | None
) -> ResolvedFile:
    """Return the file of a content artifact that a plugin returned, dated by `version` if given."""
    if version is None:
        return ResolvedFile(content_artifact, None)
    added = _members(version).filter(content_id=content_artifact.content_id)
    date = added.values_list("pulp_created", flat=True).first()
    return ResolvedFile(content_artifact, date or version.pulp_created)


def superseded_file(
    distribution: Distribution, path: str, current: Publication | None
) -> ResolvedFile | None:
    """Return the file at `path` of a publication that was superseded within the grace period.

    A client with old metadata can still download the packages it names (pulpcore issue 7514).
    `current`, the publication served now, is excluded. Calls `get_fallback_ca` if the plugin
    overrides it.
    """
    if type(distribution).get_fallback_ca is not Distribution.get_fallback_ca:
        return _plugin_fallback(distribution, path)
    for publication in _superseded(distribution, current):
        if found := files_in_publication(publication, [path]).get(path):
            return found
    return None


def _plugin_fallback(distribution: Distribution, path: str) -> ResolvedFile | None:
    fallback = distribution.get_fallback_ca(path)
    if fallback is None:
        return None
    # Before pulpcore 3.121 the hook returned the content artifact alone.
    content_artifact, version = fallback if isinstance(fallback, tuple) else (fallback, None)
    return file_of_content(content_artifact, version)


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
) -> dict[str, ResolvedFile]:
    parameters = {
        "paths": paths,
        "repository": version.repository_id,
        "number": version.number,
    }
    if publication is not None:
        parameters["publication"] = publication.pk
    return {row.value(): _found(row, version) for row in query.all(parameters)}


def _found(row: Row, version: RepositoryVersion) -> ResolvedFile:
    is_published, added = row.value(), row.value()
    content_artifact = row.instance(ContentArtifact)
    content_artifact.artifact = row.instance(Artifact)
    # Published metadata is not content of the version, and so has the date of the version.
    date = added or (version.pulp_created if is_published else None)
    return ResolvedFile(content_artifact, date, is_published)


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
