"""Keyset pagination of a directory of a publication or repository version, in SQL.

Upstream loads every row below the directory, and every membership of the version, and lists them
in Python. Here a page starts after the last entry of the page before: the next rows are read in the
order of an index on paths and grouped by the next path segment. Where large subdirectories make
few entries of many rows, names are found by an index skip scan, which jumps over all rows below
each.

Everything here blocks and runs in the database executor.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from pulpcore.content_star.database.threads import LISTING_TIMEOUT, extend_deadline
from pulpcore.content_star.listings import directory_sql as sql
from pulpcore.content_star.listings.entries import DirectoryEntry, EntryCache
from pulpcore.content_star.listings.pagination import ALL_ENTRIES, PageQuery
from pulpcore.content_star.resolve.content import ContentSource

# Rows that the query of a page reads at most, which takes PostgreSQL some 20 ms.
ROWS = 2000

# Minimum of entries of a part of a listing; if ROWS rows have fewer, a skip scan is cheaper than
# reading on.
MIN_PART_ENTRIES = ROWS // 4

# Paths that one query examines at most to find those rows: the index on paths is of all
# repositories, since there is none on those of a repository version.
PATHS = 10 * ROWS

# Entries of a part of a version all of whose rows are read for each part.
SPARSE_PART = 10 * ROWS

# Entries of directories with large subdirectories that a process caches: some 6 MB.
CACHED_ENTRIES = 20_000

entry_cache = EntryCache(CACHED_ENTRIES)


class Order(NamedTuple):
    """Comparison operators and ORDER BY clause for the code point order of an index on paths."""

    from_on: str
    before: str
    using: str


def entries(
    source: ContentSource, directory: str, page: PageQuery = ALL_ENTRIES
) -> list[DirectoryEntry]:
    """List the entries of `directory` that are on the page, sorted.

    `directory` is empty for the root or ends in a slash.
    """
    if page.limit is not None:
        return read_part(source, directory, page.after, page.limit, page.limit)[0]
    listed: list[DirectoryEntry] = []
    after, is_last = page.after, False
    while not is_last:
        more, is_last = read_part(source, directory, after)
        listed += more
        after = listed[-1].name if listed else None
    return listed


def read_part(
    source: ContentSource,
    directory: str,
    after: str | None,
    at_least: int = MIN_PART_ENTRIES,
    at_most: int | None = None,
) -> tuple[list[DirectoryEntry], bool]:
    """Return entries of `directory` after the name `after`, and whether they are the last.

    They are at least `at_least`, unless fewer follow, and at most `at_most`.
    """
    extend_deadline(LISTING_TIMEOUT)
    start = _start_path(directory, after)
    if not _is_sparse(source):
        listed, is_last = _next_rows(source, directory, start, at_most)
        if is_last or len(listed) >= at_least:
            return listed, is_last
    if _lists_contained(source):
        return _read_all_from(source, directory, start, at_most)
    names = _next_names(source, directory, start, at_least)
    return _entries_named(source, directory, start, names), len(names) < at_least


def exists(source: ContentSource, directory: str) -> bool:
    """Return whether there is a file below `directory`, without listing it."""
    queries = [] if source.publication is None else [sql.EXISTS_PUBLISHED]
    if _lists_contained(source):
        queries.append(sql.EXISTS_CONTAINED)
    parameters = _parameters(source, directory, directory)
    in_range = _in_range(parameters).format(path="relative_path")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {' OR '.join(queries)}".format(in_range=in_range), parameters)
        return bool(cursor.fetchone()[0])


def is_immutable(source: ContentSource) -> bool:
    """Return whether `source` is complete, so that its content cannot change."""
    assert source.version is not None
    publication = source.publication
    return bool(source.version.complete and (publication is None or publication.complete))


def key_of(source: ContentSource, directory: str) -> tuple[UUID | None, UUID, str]:
    """Return the cache key of a directory of an immutable source."""
    assert source.version is not None
    return source.publication and source.publication.pk, source.version.pk, directory


@lru_cache(1)
def path_order() -> Order:
    """Return the operators that use the index on paths in the order of code points."""
    with connection.cursor() as cursor:
        cursor.execute(sql.IS_ORDERED)
        is_ordered = cursor.fetchone()[0]
    return Order(">=", "<", "") if is_ordered else Order("~>=~", "~<~", "USING ~<~")


def _next_rows(
    source: ContentSource, directory: str, start: str, limit: int | None
) -> tuple[list[DirectoryEntry], bool]:
    """Return the entries of the next `ROWS` rows, and whether they are the last.

    Excludes the last entry if it may have more rows. Empty if the next `PATHS` paths, of all
    repositories, have fewer rows of this one.
    """
    parameters = _parameters(source, directory, start) | {"limit": limit}
    parameters["rows"] = ROWS + 1
    with connection.cursor() as cursor:
        cursor.execute(_rows_query(source, _in_range(parameters)), parameters)
        count, last_path, listed = 0, "", []
        for name, modified, size, count, last_path in cursor:  # noqa: B007
            listed.append(_entry(name, modified, size))
    if count <= ROWS:
        if _lists_contained(source) and _is_crowded(parameters):
            return [], False
        return listed, limit is None or len(listed) < limit
    # Published rows may have reached `ROWS` where the others ended at `PATHS`.
    is_pass_through = source.publication is not None and _lists_contained(source)
    if is_pass_through and _is_crowded({**parameters, "end": last_path}):
        return [], False
    if listed[-1].name == _entry_name(directory, last_path):
        listed.pop()
    return listed, False


def _rows_query(source: ContentSource, in_range: str) -> str:
    """Return the query for the entries of the next rows in a range."""
    found = _select(source, sql.FIRST_PUBLISHED, sql.FIRST_CONTAINED, in_range)
    entry = sql.FIRST_OF_EACH.format(each=" UNION ALL ".join(f"({query})" for query in found))
    return f"WITH entry AS ({entry}), bounds AS ({sql.BOUNDS}) {sql.GROUPED}"


def _is_crowded(parameters: dict[str, Any]) -> bool:
    """Return whether a range has `PATHS` paths of all repositories, or more."""
    in_range = _in_range(parameters).format(path="relative_path")
    with connection.cursor() as cursor:
        cursor.execute(sql.COUNT_PATHS.format(in_range=in_range), parameters)
        return bool(cursor.fetchone()[0] == PATHS)


def _next_names(source: ContentSource, directory: str, start: str, limit: int) -> list[str]:
    """Return the next names of a publication, by an index skip scan."""
    parameters = _parameters(source, directory, start) | {"limit": limit}
    first, following = (
        sql.FIRST_NAME.format(
            path=_fill(sql.FIRST_PATH, _in_range(parameters, at), "relative_path")
        )
        for at in ("%(start)s", "step.start")
    )
    with connection.cursor() as cursor:
        cursor.execute(sql.SKIP_SCAN.format(first=first, following=following), parameters)
        return [name for (name,) in cursor]


def _entries_named(
    source: ContentSource, directory: str, start: str, names: list[str]
) -> list[DirectoryEntry]:
    """Return the entries of consecutive `names`, of which the first is at or after `start`.

    The date of a directory is that of the newest file below it, so that all rows are read, and the
    entries are cached.
    """
    if not names:
        return []
    key = key_of(source, directory)
    listed = entry_cache.get(key, names)
    if listed is None:
        listed = _between(source, directory, start, _start_path(directory, names[-1]), None)
        if is_immutable(source):
            entry_cache.add(key, listed)
    return listed


def _read_all_from(
    source: ContentSource, directory: str, start: str, limit: int | None
) -> tuple[list[DirectoryEntry], bool]:
    """Return entries from the path `start` on, reading all rows, and whether they are the last.

    Caches those with a limit; parts of HTML listings are cached as HTML.
    """
    key = (*key_of(source, directory), start, limit)
    listed = entry_cache.get(key)
    if listed is None:
        listed = _between(source, directory, start, None, limit or SPARSE_PART)
        if limit is not None and is_immutable(source):
            entry_cache.add(key, listed)
    return listed, len(listed) < (limit or SPARSE_PART)


def _between(
    source: ContentSource, directory: str, start: str, end: str | None, limit: int | None
) -> list[DirectoryEntry]:
    """Return the entries of all rows from `start` to before `end`, or the end of the directory."""
    parameters = _parameters(source, directory, start) | {"limit": limit}
    parameters["end"] = end or parameters["end"]
    found = _select(source, sql.PUBLISHED, sql.CONTAINED, _in_range(parameters))
    query = f"WITH entry AS ({' UNION ALL '.join(found)}), bounds AS (SELECT) {sql.GROUPED}"
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return [_entry(*row[:3]) for row in cursor]


def _start_path(directory: str, after: str | None) -> str:
    """Return the lower bound of paths of entries after the name `after`."""
    if after is None:
        return directory
    segment, slash, _ = after.partition("/")
    return f"{directory}{segment}0" if slash else f"{directory}{segment}\x01"


def _entry_name(directory: str, path: str) -> str:
    segment, slash, _ = path[len(directory) :].partition("/")
    return segment + slash


def _entry(name: str, modified: int | None, size: int | None) -> DirectoryEntry:
    return DirectoryEntry(name, None if modified is None else _datetime(modified), size)


@lru_cache(4096)
def _datetime(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _lists_contained(source: ContentSource) -> bool:
    return source.publication is None or bool(source.publication.pass_through)


def _is_sparse(source: ContentSource) -> bool:
    """Return whether the version has so few of all files that reading all of it is faster."""
    if not _lists_contained(source):
        return False
    assert source.version is not None
    with connection.cursor() as cursor:
        cursor.execute(sql.IS_SPARSE, _parameters(source, ""))
        return bool(cursor.fetchone()[0])


def _in_range(parameters: dict[str, Any], start: str = "%(start)s") -> str:
    """Return the SQL condition that `{path}` is from `start` to before `end`, if there is one."""
    order = path_order()
    from_start = f"{{path}} {order.from_on} {start}"
    if parameters["end"] is None:
        return from_start
    return f"{from_start} AND {{path}} {order.before} %(end)s"


def _select(source: ContentSource, published: str, contained: str, in_range: str) -> list[str]:
    """Return the queries for the rows of `source` in a range."""
    found = []
    if source.publication is not None:
        found.append(_fill(published, in_range, "pa.relative_path"))
    if _lists_contained(source):
        found.append(_fill(contained, in_range, "ca.relative_path"))
    return found


def _fill(query: str, in_range: str, path: str) -> str:
    return query.format(in_range=in_range.format(path=path), using=path_order().using)


def _parameters(source: ContentSource, directory: str, start: str = "") -> dict[str, Any]:
    assert source.version is not None
    return {
        "prefix": directory,
        "start": start,
        "end": f"{directory[:-1]}0" if directory else None,
        "publication": source.publication and source.publication.pk,
        "repository": source.version.repository_id,
        "number": source.version.number,
        "version": source.version.pk,
        "rows": ROWS,
        "paths": PATHS,
    }
