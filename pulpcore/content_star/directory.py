"""One level of a directory of a publication or repository version, computed in SQL.

Upstream loads every row below the directory, and every membership of the version, to make the same
list in Python. Here PostgreSQL groups the rows by the next path segment, so only what is shown
leaves the database.

Everything here blocks and runs behind the database door.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import connection, transaction

from pulpcore.content_star.lookup import Source
from pulpcore.content_star.window import EVERYTHING, Window


class Entry(NamedTuple):
    """A line of a directory listing."""

    name: str
    """Ends in a slash if it is a directory."""

    modified: datetime | None = None
    """When the newest content at or below the entry was added to the repository."""

    size: int | None = None
    """Bytes; None for directories and for remote files of unknown size."""


# What LIKE takes for more than itself, and how it is told not to. LIKE it is, because PostgreSQL
# before 15 does not look for `starts_with` in indexes, and is slower at it without them.
_LIKE_ITSELF, _ESCAPED = re.compile(r"[\\%_]"), r"\\\g<0>"

# Versions up to ours. In place of joins with a version and its number, of which the planner expects
# that a single content unit is left, and then does for each what it had better do for all at once.
_VERSIONS = """
    SELECT pulp_id FROM core_repositoryversion
    WHERE repository_id = %(repository)s AND number <= %(number)s
"""

# Content of the version, with the time at which it was added.
_MEMBERS = f"""
    SELECT rc.content_id, rc.pulp_created
    FROM core_repositorycontent rc
    WHERE rc.repository_id = %(repository)s
      AND rc.version_added_id IN ({_VERSIONS})
      AND (rc.version_removed_id IS NULL OR rc.version_removed_id NOT IN ({_VERSIONS}))
"""  # noqa: S608 - only text of this module

_PUBLISHED = """
    SELECT pa.relative_path, ca.pulp_id, ca.artifact_id,
           coalesce(member.pulp_created, pa.pulp_created) AS modified
    FROM core_publishedartifact pa
    JOIN core_contentartifact ca ON ca.pulp_id = pa.content_artifact_id
    LEFT JOIN member USING (content_id)
    WHERE pa.publication_id = %(publication)s AND pa.relative_path LIKE %(below)s
"""

# The same for the first few rows: one look into the memberships for each, in place of them all.
_FIRST_PUBLISHED = """
    SELECT pa.relative_path, ca.pulp_id, ca.artifact_id,
           coalesce(added.pulp_created, pa.pulp_created) AS modified
    FROM core_publishedartifact pa
    JOIN core_contentartifact ca ON ca.pulp_id = pa.content_artifact_id
    LEFT JOIN LATERAL ({members} AND rc.content_id = ca.content_id LIMIT 1) AS added ON TRUE
    WHERE pa.publication_id = %(publication)s AND pa.relative_path LIKE %(below)s
"""

_CONTAINED = """
    SELECT ca.relative_path, ca.pulp_id, ca.artifact_id, member.pulp_created AS modified
    FROM member JOIN core_contentartifact ca USING (content_id)
    WHERE ca.relative_path LIKE %(below)s
"""

# A name that goes on after its segment is a directory. Names sort by code point, as Python sorts,
# whatever the collation of the database. Dates come as seconds: Python's own of those with
# microseconds take half the time of a large listing. Sizes are looked up only for files in the
# window; that of a file which is still remote is the one its remotes announce.
_LEVEL = """
    SELECT name, floor(extract(epoch FROM modified))::bigint, coalesce(
        (SELECT max(size) FROM core_artifact WHERE pulp_id = ANY(artifacts)),
        (SELECT max(size) FROM core_remoteartifact WHERE content_artifact_id = ANY(files))
    )
    FROM (
        SELECT name, max(modified) AS modified,
               array_agg(artifact_id) FILTER (WHERE NOT is_directory) AS artifacts,
               array_agg(pulp_id) FILTER (WHERE NOT is_directory) AS files
        FROM (
            SELECT *, strpos(rest, '/') > 0 AS is_directory, (
                CASE strpos(rest, '/') WHEN 0 THEN rest ELSE left(rest, strpos(rest, '/')) END
            ) COLLATE "C" AS name
            FROM (
                SELECT *, substr(relative_path, length(%(prefix)s) + 1) AS rest FROM entry
            ) AS below
        ) AS row
        WHERE %(after)s::text IS NULL OR name > %(after)s
        GROUP BY name
        ORDER BY name
        LIMIT %(limit)s
    ) AS listed
    ORDER BY name
"""

_LEVEL_AND_COUNT = """
    SELECT *, (SELECT count(*) FROM entry) FROM ({level}) AS level ORDER BY name
"""

# Of so many rows below a directory, or fewer, PostgreSQL makes a listing in some 20 ms.
FEW = 2000

# Unlike a listing these look for no dates, and stop at the first row. The indexes are those that
# migration 0002 is about: core's own where the collation of the database is C, else ours.
_ANYTHING_PUBLISHED = """
    EXISTS (
        SELECT FROM core_publishedartifact
        WHERE publication_id = %(publication)s AND relative_path LIKE %(below)s
    )
"""

_ANYTHING_CONTAINED = f"EXISTS (WITH member AS ({_MEMBERS}) {_CONTAINED})"


def entries(source: Source, directory: str, window: Window = EVERYTHING) -> list[Entry]:
    """List what of `directory` is in the window, sorted.

    `directory` is empty for the root or ends in a slash.
    """
    parameters = _parameters(source, directory) | {"after": window.after, "limit": window.limit}
    with connection.cursor() as cursor:
        cursor.execute(_with_rows(source) + _LEVEL, parameters)
        return [_entry(*row) for row in cursor]


def few_entries(source: Source, directory: str) -> list[Entry] | None:
    """List all of `directory`, or return None if that would take long."""
    query = f"{_with_rows(source, 'LIMIT %(few)s + 1')} {_LEVEL_AND_COUNT.format(level=_LEVEL)}"
    parameters = _parameters(source, directory) | {"after": None, "limit": None, "few": FEW}
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        rows = cursor.fetchall()
    if rows and rows[0][-1] > FEW:
        return None
    return [_entry(*row) for *row, _ in rows]


def all_entries(source: Source, directory: str, after: str | None) -> Iterator[list[Entry]]:
    """List what of `directory` sorts after a name, in parts: memory holds one at a time.

    The connection is in a transaction until the last one.
    """
    parameters = _parameters(source, directory) | {"after": after, "limit": None}
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(_with_rows(source) + _LEVEL, parameters)
        while part := cursor.fetchmany(FEW):
            yield [_entry(*row) for row in part]


def exists(source: Source, directory: str) -> bool:
    """Tell whether anything is at or below `directory`, without listing it."""
    query = " OR ".join(_anything(source))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {query}", _parameters(source, directory))
        return bool(cursor.fetchone()[0])


def _entry(name: str, modified: int | None, size: int | None) -> Entry:
    return Entry(name, None if modified is None else _moment(modified), size)


@lru_cache(4096)
def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _anything(source: Source) -> Iterator[str]:
    if source.publication is not None:
        yield _ANYTHING_PUBLISHED
    if source.publication is None or source.publication.pass_through:
        yield _ANYTHING_CONTAINED


def _with_rows(source: Source, limit: str = "") -> str:
    """Name the rows of `source` below the directory `entry`, all or few of them."""
    published = _FIRST_PUBLISHED.format(members=_MEMBERS) if limit else _PUBLISHED
    if source.publication is None:
        rows = _CONTAINED
    elif source.publication.pass_through:
        rows = f"{published} UNION ALL {_CONTAINED}"
    else:
        rows = published
    # Otherwise what passes through, which names them twice, has all members read for any directory.
    members = f"member AS NOT MATERIALIZED ({_MEMBERS})"
    return f"WITH {members}, entry AS ({rows} {limit})"


def _parameters(source: Source, directory: str) -> dict[str, Any]:
    assert source.version is not None
    return {
        "prefix": directory,
        "below": f"{_LIKE_ITSELF.sub(_ESCAPED, directory)}%",
        "publication": source.publication and source.publication.pk,
        "repository": source.version.repository_id,
        "number": source.version.number,
    }
