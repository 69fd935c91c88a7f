"""SQL for uncached requests: look up a distribution, its publication or version, and files.

Each query reads a row or two by the indexes that its comment names, for repositories of any size;
`tests/functional/test_queries.py` checks the query plans. They are text because the ORM takes
longer to compile such a query than PostgreSQL to execute it: 1 to 2 ms of Python each.

`$columns` and the parameters `%(name)s` are described in `prepared.Query`.
"""

from pulpcore.content_star.database.prepared import Query
from pulpcore.plugin.models import (
    Artifact,
    ContentArtifact,
    ContentGuard,
    Distribution,
    Domain,
    Publication,
    Repository,
    RepositoryVersion,
)

# Unique index (base_path, pulp_domain_id), once for each prefix of the path that ends at a slash.
DISTRIBUTION = Query(
    """
    SELECT $columns
    FROM core_distribution distribution
    JOIN core_domain domain ON domain.pulp_id = distribution.pulp_domain_id
    LEFT JOIN core_contentguard guard ON guard.pulp_id = distribution.content_guard_id
    LEFT JOIN core_repository repository ON repository.pulp_id = distribution.repository_id
    LEFT JOIN core_repositoryversion version ON version.pulp_id = distribution.repository_version_id
    LEFT JOIN core_publication publication ON publication.pulp_id = distribution.publication_id
    LEFT JOIN core_repositoryversion published
           ON published.pulp_id = publication.repository_version_id
    WHERE domain.name = %(domain)s AND distribution.base_path = ANY(%(prefixes)s)
    ORDER BY length(distribution.base_path) DESC
    LIMIT 1
    """,
    tables={
        "distribution": Distribution,
        "domain": Domain,
        "guard": ContentGuard,
        "repository": Repository,
        "version": RepositoryVersion,
        "publication": Publication,
        "published": RepositoryVersion,
    },
    parameters={"domain": "text", "prefixes": "text[]"},
)

# Unique index (repository_id, number), from the newest version down to one that has a publication:
# index on repository_version_id.
LATEST_PUBLICATION = Query(
    """
    SELECT $columns
    FROM core_repositoryversion version
    JOIN core_publication publication ON publication.repository_version_id = version.pulp_id
    WHERE version.repository_id = %(repository)s AND publication.complete
    ORDER BY version.number DESC, publication.pulp_created DESC
    LIMIT 1
    """,
    tables={"version": RepositoryVersion, "publication": Publication},
    parameters={"repository": "uuid"},
)

# Index on repository_version_id.
LATEST_PUBLICATION_OF_VERSION = Query(
    """
    SELECT $columns
    FROM core_publication publication
    WHERE publication.repository_version_id = %(version)s AND publication.complete
    ORDER BY publication.pulp_created DESC
    LIMIT 1
    """,
    tables={"publication": Publication},
    parameters={"version": "uuid"},
)

# Unique index (repository_id, number).
LATEST_VERSION = Query(
    """
    SELECT $columns
    FROM core_repositoryversion version
    WHERE version.repository_id = %(repository)s AND version.complete
    ORDER BY version.number DESC
    LIMIT 1
    """,
    tables={"version": RepositoryVersion},
    parameters={"repository": "uuid"},
)

# Unique indexes (publication_id, relative_path) of published artifacts and (repository_id,
# content_id, version_added_id) of memberships; primary keys.
_PUBLISHED = """
    SELECT file.pulp_id, TRUE AS is_published, (
        SELECT member.pulp_created
        FROM core_repositorycontent member
        JOIN core_repositoryversion added ON added.pulp_id = member.version_added_id
        LEFT JOIN core_repositoryversion removed ON removed.pulp_id = member.version_removed_id
        WHERE member.repository_id = %(repository)s AND member.content_id = file.content_id
          AND added.number <= %(number)s
          AND (removed.number IS NULL OR removed.number > %(number)s)
        LIMIT 1
    ) AS added
    FROM core_publishedartifact published
    JOIN core_contentartifact file ON file.pulp_id = published.content_artifact_id
    WHERE published.publication_id = %(publication)s AND published.relative_path = wanted.path
"""

# Index on relative_path of content artifacts, for all repositories; for each row found, the unique
# index (repository_id, content_id, version_added_id) of memberships.
_CONTAINED = """
    SELECT file.pulp_id, FALSE AS is_published, member.pulp_created AS added
    FROM core_contentartifact file
    JOIN core_repositorycontent member
      ON member.repository_id = %(repository)s AND member.content_id = file.content_id
    JOIN core_repositoryversion added ON added.pulp_id = member.version_added_id
    LEFT JOIN core_repositoryversion removed ON removed.pulp_id = member.version_removed_id
    WHERE file.relative_path = wanted.path
      AND added.number <= %(number)s
      AND (removed.number IS NULL OR removed.number > %(number)s)
"""

# A pass-through publication: the published file, else the one in the repository version.
# Memberships are not read if there is a published one.
_EITHER = """
    WITH at_path AS MATERIALIZED ({published})
    SELECT * FROM at_path
    UNION ALL
    ({contained} AND NOT EXISTS (SELECT FROM at_path))
"""

# Primary keys. The newest of several files at one path of a version wins. The CTE hides the number
# of paths from the planner, so that one generic plan fits any number.
_FILES = """
    WITH asked AS MATERIALIZED (SELECT %(paths)s::text[] AS paths)
    SELECT wanted.path, found.is_published, found.added, $columns
    FROM asked
    CROSS JOIN unnest(asked.paths) AS wanted (path)
    CROSS JOIN LATERAL ({found} ORDER BY added DESC LIMIT 1) AS found
    JOIN core_contentartifact file ON file.pulp_id = found.pulp_id
    LEFT JOIN core_artifact artifact ON artifact.pulp_id = file.artifact_id
"""

_TABLES = {"file": ContentArtifact, "artifact": Artifact}
_IN_VERSION = {"paths": "text[]", "repository": "uuid", "number": "integer"}
_IN_PUBLICATION = {**_IN_VERSION, "publication": "uuid"}

FILES_CONTAINED = Query(_FILES.format(found=_CONTAINED), _TABLES, _IN_VERSION)
FILES_PUBLISHED = Query(_FILES.format(found=_PUBLISHED), _TABLES, _IN_PUBLICATION)
FILES_PASSED_THROUGH = Query(
    _FILES.format(found=_EITHER.format(published=_PUBLISHED, contained=_CONTAINED)),
    _TABLES,
    _IN_PUBLICATION,
)
