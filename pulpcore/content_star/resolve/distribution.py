"""Find the distribution of a content path, by its longest base path.

Everything here blocks and runs in the database executor.
"""

from dataclasses import dataclass

from starlette.exceptions import HTTPException

from pulpcore.content_star.database.prepared import Row, make
from pulpcore.content_star.database.queries import DISTRIBUTION
from pulpcore.content_star.resolve.content import ContentSource, ResolvedFile
from pulpcore.content_star.resolve.paths import BASE_PATH_SEGMENTS, ContentPath, prefixes
from pulpcore.plugin.models import (
    ContentGuard,
    Distribution,
    Domain,
    Publication,
    Repository,
    RepositoryVersion,
)


@dataclass(frozen=True)
class ResolvedPath:
    """A distribution, and the requested path below its base path."""

    distribution: Distribution
    """Detail object: an instance of the plugin's model."""

    path: str
    """Relative to the base path, without leading slashes; empty for the distribution's root."""

    source: ContentSource | None = None
    """Source that the distribution serves, if it has been looked up already."""

    file: ResolvedFile | None = None
    """The file that `source` serves at the path, if it has been looked up already."""


def find_distribution(content_path: ContentPath) -> ResolvedPath | None:
    """Return the distribution with the longest base path that is a prefix of the path, or None.

    Newer pulpcore rejects base paths that nest in another one.
    Raises `HTTPException` 501 if the plugin of the distribution is not installed.
    """
    row = DISTRIBUTION.one({"domain": content_path.domain, "prefixes": prefixes(content_path.path)})
    if deeper := _deeper_base_paths(content_path):
        row = DISTRIBUTION.one({"domain": content_path.domain, "prefixes": deeper}) or row
    if row is None:
        return None
    distribution = _distribution(row)
    return ResolvedPath(distribution, content_path.path[len(distribution.base_path) :].lstrip("/"))


def find_domain(content_path: ContentPath) -> Domain:
    """Return the domain of the path; raises `HTTPException` 404 if it does not exist."""
    try:
        return Domain.objects.get(name=content_path.domain)
    except Domain.DoesNotExist:
        raise HTTPException(404, f"There is no domain '{content_path.domain}'.") from None


def _deeper_base_paths(content_path: ContentPath) -> list[str]:
    """Return the base paths of over `BASE_PATH_SEGMENTS` segments that are prefixes of the path."""
    if content_path.path.count("/") < BASE_PATH_SEGMENTS:
        return []
    longest = prefixes(content_path.path)[-1]
    deep = Distribution.objects.filter(
        pulp_domain__name=content_path.domain, base_path__startswith=f"{longest}/"
    ).values_list("base_path", flat=True)
    return [each for each in deep if f"{content_path.path}/".startswith(f"{each}/")]


def _distribution(row: Row) -> Distribution:
    """Return the detail object: an instance of the plugin's model.

    Columns of that model are deferred and loaded on access; most plugins do not use them to serve a
    file.
    """
    columns = row.columns_of(Distribution)
    assert columns is not None
    try:
        model = Distribution.get_model_for_pulp_type(columns["pulp_type"])
    except KeyError:
        raise HTTPException(
            501, f"The plugin for distributions of type '{columns['pulp_type']}' is not installed."
        ) from None
    distribution = make(model, {**columns, model._meta.pk.attname: columns["pulp_id"]})
    distribution.pulp_domain = row.instance(Domain)
    distribution.content_guard = row.instance(ContentGuard)
    distribution.repository = row.instance(Repository)
    distribution.repository_version = row.instance(RepositoryVersion)
    distribution.publication = row.instance(Publication)
    published = row.instance(RepositoryVersion)
    if distribution.publication is not None:
        distribution.publication.repository_version = published
    return distribution
