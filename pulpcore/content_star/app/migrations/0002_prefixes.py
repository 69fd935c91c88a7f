"""Indexes by which directories are found where the collation of the database is not C.

Only in the order of code points do the paths below a directory stand together in an index; core's
are in the order of the database's collation. Queries need none of these two: without them they
look at every row of the publication or version.
"""

import json
from typing import Any, NamedTuple

from django.db import migrations, transaction


class Index(NamedTuple):
    """An index on a table of core's."""

    name: str
    table: str
    columns: str


INDEXES = (
    Index("content_star_path", "core_contentartifact", "relative_path text_pattern_ops"),
    Index(
        "content_star_published_path",
        "core_publishedartifact",
        "publication_id, relative_path text_pattern_ops",
    ),
)


def create(apps: Any, schema_editor: Any) -> None:
    """Create the missing indexes CONCURRENTLY, which does not block writes."""
    connection = schema_editor.connection
    for index in INDEXES:
        with connection.cursor() as cursor:
            if _is_invalid(cursor, index.name):
                cursor.execute(f"DROP INDEX CONCURRENTLY {index.name}")
            if not _finds_prefixes(connection, index.table):
                cursor.execute(
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index.name}"
                    f" ON {index.table} ({index.columns})"
                )


def drop(apps: Any, schema_editor: Any) -> None:
    """Drop the indexes, CONCURRENTLY."""
    with schema_editor.connection.cursor() as cursor:
        for index in INDEXES:
            cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}")


def _is_invalid(cursor: Any, name: str) -> bool:
    """Return whether an attempt to make the index failed, which leaves one that is of no use."""
    cursor.execute(
        "SELECT FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid", [name]
    )
    return cursor.fetchone() is not None


def _finds_prefixes(connection: Any, table: str) -> bool:
    """Return whether the planner has an index to find paths by their beginning, of any name."""
    query = f"SELECT FROM {table} WHERE relative_path LIKE 'a%'"
    with transaction.atomic(connection.alias), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {query}")
        (plan,) = cursor.fetchone()
    return "Index Cond" in (plan if isinstance(plan, str) else json.dumps(plan))


class Migration(migrations.Migration):
    atomic = False  # as CONCURRENTLY demands
    dependencies = (
        ("content_star", "0001_changes"),
        ("core", "0109_contentartifact_relative_path_index"),
    )
    operations = (migrations.RunPython(create, drop),)
