"""Copies of the tables with paths with another collation than C, as most databases have."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

from django.db import connection

from pulpcore.content_star.listings import directory

migration = import_module("pulpcore.content_star.app.migrations.0002_prefixes")
EDITOR = SimpleNamespace(connection=connection)

_COPY = """
    CREATE TABLE other.{table} (LIKE public.{table} INCLUDING ALL);
    ALTER TABLE other.{table} ALTER relative_path TYPE text COLLATE other.not_c;
    INSERT INTO other.{table} SELECT * FROM public.{table};
    ANALYZE other.{table}
"""


@contextmanager
def copies_of_paths() -> Iterator[None]:
    """Copy the two tables with paths into a schema, with another collation than C."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA other")
        try:
            cursor.execute("CREATE COLLATION other.not_c (LOCALE = 'C.UTF-8')")
            for index in migration.INDEXES:
                cursor.execute(_COPY.format(table=index.table))
            yield
        finally:
            cursor.execute("DROP SCHEMA other CASCADE")


@contextmanager
def seeing_copies(indexed: bool = False) -> Iterator[None]:
    """Make the copies this connection's tables, with or without the indexes of migration 0002."""
    with connection.cursor() as cursor:
        cursor.execute("SET search_path TO other, public")
        directory.path_order.cache_clear()
        try:
            if indexed:
                migration.create(None, EDITOR)
            yield
        finally:
            migration.drop(None, EDITOR)
            cursor.execute("RESET search_path")
            directory.path_order.cache_clear()
