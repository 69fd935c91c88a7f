"""Keyset pagination of a directory of a publication or repository version, in SQL.

Upstream loads every row below the directory, and every membership of the version, and lists them
in Python. Here a page starts after the last entry of the page before: the next rows are read in the
order of an index on paths and grouped by the next path segment. Where large subdirectories make
few entries of many rows, names are found by an index skip scan, which jumps over all rows below
each.

Everything here blocks and runs in the database executor.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from pulpcore.content_star.listings.pagination import ALL_ENTRIES, PageQuery
from pulpcore.content_star.resolve.content import ContentSource


class DirectoryEntry(NamedTuple):
    """An entry of a directory listing."""

    name: str
    """Name, which ends in a slash if the entry is a directory."""

    modified: datetime | None = None
    """Time at which the newest content at or below the entry was added to the repository."""

    size: int | None = None
    """Bytes; None for directories and for remote files of unknown size."""

    @property
    def may_change(self) -> bool:
        """Whether this is a file of unknown size, which is known once the file is saved."""
        return self.size is None and not self.name.endswith("/")


# Rows that one query reads at most, which takes PostgreSQL some 20 ms.
ROWS = 2000

# Minimum of entries of a part of a listing; if ROWS rows have fewer, a skip scan is cheaper than
# reading on.
MIN_PART_ENTRIES = ROWS // 4

# Seconds for which an entry without a size is cached, although the file may have been saved.
UNSIZED_SECONDS = 60

# Entries of directories with large subdirectories that a process caches: some 6 MB.
CACHED_ENTRIES = 20_000

# Paths that one query examines at most to find those rows: the index on paths is of all
# repositories, since there is none on those of a repository version.
PATHS = 10 * ROWS

# Entries of a part of a version all of whose rows are read for each part.
SPARSE_PART = 10 * ROWS

# LIKE instead of `starts_with`, for which PostgreSQL before 15 uses no index and which it evaluates
# more slowly.
_LIKE_METACHARACTERS, _ESCAPED = re.compile(r"[\\%_]"), r"\\\g<0>"

# Versions up to the listed one. Not joins with a version and its number: the planner expects a
# single content unit from these, and then plans a nested loop.
_VERSIONS = """
    SELECT pulp_id FROM core_repositoryversion
    WHERE repository_id = %(repository)s AND number <= %(number)s
"""

# Content of the version, with the time of its addition.
_MEMBERS = f"""
    SELECT rc.content_id, rc.pulp_created
    FROM core_repositorycontent rc
    WHERE rc.repository_id = %(repository)s
      AND rc.version_added_id IN ({_VERSIONS})
      AND (rc.version_removed_id IS NULL OR rc.version_removed_id NOT IN ({_VERSIONS}))
"""  # noqa: S608 - only text of this module

# The same for one content unit, which reads two rows regardless of the number of versions.
_ONE_MEMBER = """(
    SELECT rc.pulp_created FROM core_repositorycontent rc
    WHERE rc.repository_id = %(repository)s AND rc.content_id = ca.content_id
      AND (SELECT number FROM core_repositoryversion WHERE pulp_id = rc.version_added_id)
          <= %(number)s
      AND (rc.version_removed_id IS NULL OR
           (SELECT number FROM core_repositoryversion WHERE pulp_id = rc.version_removed_id)
           > %(number)s)
    LIMIT 1
)"""

_PUBLISHED = f"""
    SELECT pa.relative_path, ca.pulp_id, ca.artifact_id,
           coalesce(member.pulp_created, pa.pulp_created) AS modified
    FROM core_publishedartifact pa
    JOIN core_contentartifact ca ON ca.pulp_id = pa.content_artifact_id
    LEFT JOIN ({_MEMBERS}) AS member USING (content_id)
    WHERE pa.publication_id = %(publication)s AND {{in_range}}
"""  # noqa: S608

_CONTAINED = f"""
    SELECT ca.relative_path, ca.pulp_id, ca.artifact_id, member.pulp_created AS modified
    FROM core_contentartifact ca JOIN ({_MEMBERS}) AS member USING (content_id)
    WHERE {{in_range}}
"""  # noqa: S608

# The same in the order of the index on paths: the planner cannot reorder lateral joins. Limits are
# subselects so that it does not know them and expects a fraction of all rows; joining all rows and
# sorting them would cost much more.
_FIRST_PUBLISHED = f"""
    SELECT pa.relative_path, ca.pulp_id, ca.artifact_id,
           coalesce(member.pulp_created, pa.pulp_created) AS modified
    FROM core_publishedartifact pa
    CROSS JOIN LATERAL (
        SELECT * FROM core_contentartifact WHERE pulp_id = pa.content_artifact_id LIMIT 1
    ) AS ca
    LEFT JOIN LATERAL {_ONE_MEMBER} AS member ON TRUE
    WHERE pa.publication_id = %(publication)s AND {{in_range}}
    ORDER BY relative_path {{using}} LIMIT (SELECT %(rows)s)
"""  # noqa: S608
_FIRST_CONTAINED = f"""
    SELECT * FROM (
        SELECT ca.relative_path, ca.pulp_id, ca.artifact_id, member.pulp_created AS modified
        FROM core_contentartifact ca LEFT JOIN LATERAL {_ONE_MEMBER} AS member ON TRUE
        WHERE {{in_range}}
        ORDER BY relative_path {{using}} LIMIT (SELECT %(paths)s)
    ) AS path
    WHERE modified IS NOT NULL
    ORDER BY relative_path {{using}} LIMIT (SELECT %(rows)s)
"""  # noqa: S608

_COUNT_PATHS = """
    SELECT count(*) FROM (
        SELECT FROM core_contentartifact WHERE {in_range} LIMIT %(paths)s
    ) AS path
"""

_FIRST_PATH = """
    SELECT relative_path FROM core_publishedartifact
    WHERE publication_id = %(publication)s AND {in_range}
    ORDER BY relative_path {using} LIMIT 1
"""

_FIRST_OF_EACH = """
    SELECT * FROM ({each}) AS row ORDER BY relative_path COLLATE "C" LIMIT %(rows)s
"""

# A path that continues after its segment makes a directory. Names sort by code point, as Python
# sorts, regardless of the collation of the database.
_NAME = """
    (CASE strpos({rest}, '/') WHEN 0 THEN {rest} ELSE left({rest}, strpos({rest}, '/')) END)
"""

# Dates are selected in seconds: converting timestamps with microseconds to Python takes half the
# time of a large listing. Sizes are looked up only for files on the page; a file that is not saved
# has the size that its remotes announce.
_GROUPED = f"""
    SELECT name, floor(extract(epoch FROM modified))::bigint, coalesce(
        (SELECT max(size) FROM core_artifact WHERE pulp_id = ANY(artifacts)),
        (SELECT max(size) FROM core_remoteartifact WHERE content_artifact_id = ANY(files))
    ), bounds.*
    FROM (
        SELECT name, max(modified) AS modified,
               array_agg(artifact_id) FILTER (WHERE right(name, 1) <> '/') AS artifacts,
               array_agg(pulp_id) FILTER (WHERE right(name, 1) <> '/') AS files
        FROM (SELECT *, {_NAME.format(rest="rest")} COLLATE "C" AS name FROM (
            SELECT *, substr(relative_path, length(%(prefix)s) + 1) AS rest FROM entry
        ) AS below) AS row
        GROUP BY name
        ORDER BY name
        LIMIT %(limit)s
    ) AS listed CROSS JOIN bounds
    ORDER BY name
"""  # noqa: S608

_BOUNDS = 'SELECT count(*), max(relative_path COLLATE "C") FROM entry'

# Index skip scan ("loose index scan") of a publication: each step finds the first path after all
# that are at or below the previous entry. `0` is the character after the slash.
_SKIP_SCAN = """
    WITH RECURSIVE level (name) AS (
        {first}
        UNION ALL
        SELECT following.name
        FROM (
            SELECT %(prefix)s || CASE right(name, 1)
                WHEN '/' THEN left(name, -1) || '0' ELSE name || '\x01' END AS start
            FROM level
        ) AS step CROSS JOIN LATERAL ({following}) AS following
    )
    SELECT name FROM level LIMIT %(limit)s
"""
_FIRST_NAME = f"""
    (SELECT {_NAME.format(rest="rest")} AS name
     FROM (SELECT substr(relative_path, length(%(prefix)s) + 1) AS rest FROM ({{path}}) AS path)
          AS below)
"""  # noqa: S608

# Whether finding `ROWS` files of the version among all files would examine more rows than the whole
# version has. Its size is that of the array of content ids, 16 bytes each, which is not read.
_IS_SPARSE = """
    SELECT coalesce(pg_column_size(content_ids) / 16, 0)::float ^ 2 < %(rows)s * (
        SELECT reltuples FROM pg_class WHERE oid = 'core_contentartifact'::regclass
    )
    FROM core_repositoryversion WHERE pulp_id = %(version)s
"""

# Whether `relative_path`, and so core's index on it, is in the order of code points. All locales of
# the built-in provider of PostgreSQL 17 are, which `pulp-star up` uses; before 15 the C library was
# the only provider.
_IS_ORDERED = """
    SELECT attcollation = 'pg_catalog."default"'::regcollation
       AND CASE to_jsonb(pg_database) ->> 'datlocprovider'
           WHEN 'b' THEN TRUE WHEN 'i' THEN FALSE ELSE datcollate IN ('C', 'POSIX') END
    FROM pg_attribute, pg_database
    WHERE attrelid = 'core_contentartifact'::regclass AND attname = 'relative_path'
      AND datname = current_database()
"""

# Unlike a listing these read no dates and stop at the first row. They use core's index if the
# collation of the database is C, else that of migration 0002.
_EXISTS_PUBLISHED = """
    EXISTS (
        SELECT FROM core_publishedartifact
        WHERE publication_id = %(publication)s AND relative_path LIKE %(below)s
    )
"""

_EXISTS_CONTAINED = f"EXISTS ({_CONTAINED.format(in_range='ca.relative_path LIKE %(below)s')})"


class Order(NamedTuple):
    """Comparison operators and ORDER BY clause for the code point order of an index on paths."""

    from_on: str
    before: str
    using: str


class EntryCache:
    """LRU cache of at most `capacity` entries of directories of immutable sources."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._levels: OrderedDict[object, tuple[float, dict[str, DirectoryEntry]]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def get(self, key: object, names: Iterable[str] | None = None) -> list[DirectoryEntry] | None:
        """Return the cached entries of `names`, or of all; None if one of them is not cached."""
        with self._lock:
            expires, known = self._levels.get(key, (0.0, {}))
            if expires < time.monotonic():
                return None
            self._levels.move_to_end(key)
            entries = [known.get(name) for name in (known if names is None else names)]
        return None if None in entries else entries  # type: ignore[return-value]

    def add(self, key: object, entries: list[DirectoryEntry]) -> None:
        """Cache `entries`, for `UNSIZED_SECONDS` if one has no size."""
        may_change = any(entry.may_change for entry in entries)
        until = time.monotonic() + UNSIZED_SECONDS if may_change else float("inf")
        with self._lock:
            expires, known = self._levels.pop(key, (float("inf"), {}))
            self._count -= len(known)
            if expires < time.monotonic():
                expires, known = float("inf"), {}
            known.update((entry.name, entry) for entry in entries)
            self._levels[key] = min(expires, until), known
            self._count += len(known)
            while self._count > self._capacity:
                _, (_, evicted) = self._levels.popitem(last=False)
                self._count -= len(evicted)


entry_cache = EntryCache(CACHED_ENTRIES)


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
    query = " OR ".join(_exists_conditions(source))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {query}", _parameters(source, directory))
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
        cursor.execute(_IS_ORDERED)
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
    parameters |= {"rows": ROWS + 1, "paths": PATHS}
    found = _select(source, _FIRST_PUBLISHED, _FIRST_CONTAINED, _in_range(parameters))
    entry = _FIRST_OF_EACH.format(each=" UNION ALL ".join(f"({query})" for query in found))
    query = f"WITH entry AS ({entry}), bounds AS ({_BOUNDS}) {_GROUPED}"
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        rows = cursor.fetchall()
    listed = [_entry(*row[:3]) for row in rows]
    count, last_path = rows[0][3:] if rows else (0, "")
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


def _is_crowded(parameters: dict[str, Any]) -> bool:
    """Return whether a range has `PATHS` paths of all repositories, or more."""
    in_range = _in_range(parameters).format(path="relative_path")
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_PATHS.format(in_range=in_range), parameters)
        return bool(cursor.fetchone()[0] == PATHS)


def _next_names(source: ContentSource, directory: str, start: str, limit: int) -> list[str]:
    """Return the next names of a publication, by an index skip scan."""
    parameters = _parameters(source, directory, start) | {"limit": limit}
    first, following = (
        _FIRST_NAME.format(path=_fill(_FIRST_PATH, _in_range(parameters, at), "relative_path"))
        for at in ("%(start)s", "step.start")
    )
    with connection.cursor() as cursor:
        cursor.execute(_SKIP_SCAN.format(first=first, following=following), parameters)
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
    found = _select(source, _PUBLISHED, _CONTAINED, _in_range(parameters))
    query = f"WITH entry AS ({' UNION ALL '.join(found)}), bounds AS (SELECT) {_GROUPED}"
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


def _exists_conditions(source: ContentSource) -> Iterator[str]:
    if source.publication is not None:
        yield _EXISTS_PUBLISHED
    if _lists_contained(source):
        yield _EXISTS_CONTAINED


def _lists_contained(source: ContentSource) -> bool:
    return source.publication is None or bool(source.publication.pass_through)


def _is_sparse(source: ContentSource) -> bool:
    """Return whether the version has so few of all files that reading all of it is faster."""
    if not _lists_contained(source):
        return False
    assert source.version is not None
    with connection.cursor() as cursor:
        cursor.execute(_IS_SPARSE, {"version": source.version.pk, "rows": ROWS})
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
        "below": f"{_LIKE_METACHARACTERS.sub(_ESCAPED, directory)}%",
        "start": start,
        "end": f"{directory[:-1]}0" if directory else None,
        "publication": source.publication and source.publication.pk,
        "repository": source.version.repository_id,
        "number": source.version.number,
    }
