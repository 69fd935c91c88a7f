"""The triggers that tell every process what has been committed: which rows, by their ids.

They are on the tables that decide what is served, so they see the changes of everyone: workers, API
processes and content apps of any age, and SQL by hand. One statement sends one payload, whatever
the number of its rows: the ids, or `all` for more than a hundred. PostgreSQL sends it when the
transaction commits, and several equal ones once.

A trigger never fails the write that it watches: where its query does (a column that a newer
pulpcore has not), it says `all`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps
from django.db import connection, transaction

from pulpcore.app.models import ContentGuard, Distribution, Publication, Remote, Repository

# The function and what it sends are made by the migrations, which hold its SQL.
FUNCTION = "content_star_changed"

CHANNEL = "content_star"

ALL = "all"
"""The payload for every row: sent for more than 100 ids, since PostgreSQL's limit is 8000 bytes."""

# ruff: noqa: S608 - what is put into SQL here is this module's own

# `changed` are the rows after an INSERT or UPDATE, or before a DELETE; `before`, before an UPDATE.
_TRANSITIONS = {
    "INSERT": "NEW TABLE AS changed",
    "UPDATE": "NEW TABLE AS changed OLD TABLE AS before",
    "DELETE": "OLD TABLE AS changed",
}

_SELF = "SELECT pulp_id FROM changed"

# A new base path takes paths away from distributions whose base path it goes on from.
_DISTRIBUTION = f"""{_SELF} UNION ALL
SELECT d.pulp_id
FROM (SELECT pulp_domain_id, string_to_array(base_path, '/') AS parts FROM changed) c
CROSS JOIN LATERAL generate_series(1, cardinality(c.parts) - 1) AS n
JOIN core_distribution d
    ON d.base_path = array_to_string(c.parts[1:n], '/') AND d.pulp_domain_id = c.pulp_domain_id"""

_PUBLICATION = f"""{_SELF} UNION ALL
SELECT v.repository_id FROM changed c JOIN core_repositoryversion v
    ON v.pulp_id = c.repository_version_id"""

_VERSION = f"{_SELF} UNION ALL SELECT repository_id FROM changed"

# Publishing fills a publication before it is complete, and nobody is served from it till then.
_PUBLISHED = """SELECT pulp_id FROM core_publication
WHERE complete AND pulp_id IN (SELECT publication_id FROM changed)"""

# To save a file that was on demand changes nothing that is kept. A path that is another one may be
# where a kept answer says that there is nothing.
_CONTENT_ARTIFACT = """SELECT CASE
    WHEN c.relative_path = b.relative_path AND c.content_id = b.content_id THEN c.pulp_id END
FROM changed c JOIN before b ON b.pulp_id = c.pulp_id
WHERE c.relative_path <> b.relative_path OR c.content_id <> b.content_id
    OR (b.artifact_id IS NOT NULL AND b.artifact_id IS DISTINCT FROM c.artifact_id)"""

# Content gets its files before it gets into a repository.
_NEW_CONTENT_ARTIFACT = """SELECT NULL::uuid FROM changed c
WHERE EXISTS (SELECT FROM core_repositorycontent m WHERE m.content_id = c.content_id) LIMIT 1"""

_ARTIFACT = """SELECT c.pulp_id FROM changed c JOIN before b ON b.pulp_id = c.pulp_id
WHERE (c.file, c.size, c.sha256) IS DISTINCT FROM (b.file, b.size, b.sha256)"""

_DECIDING: dict[str, dict[str, str]] = {
    "core_distribution": {"INSERT": _DISTRIBUTION, "UPDATE": _DISTRIBUTION, "DELETE": _SELF},
    "core_publication": dict.fromkeys(_TRANSITIONS, _PUBLICATION),
    "core_repositoryversion": dict.fromkeys(_TRANSITIONS, _VERSION),
    "core_publishedartifact": dict.fromkeys(_TRANSITIONS, _PUBLISHED),
    "core_distributedpublication": dict.fromkeys(
        _TRANSITIONS, "SELECT distribution_id FROM changed"
    ),
    "core_contentartifact": {
        "INSERT": _NEW_CONTENT_ARTIFACT,
        "UPDATE": _CONTENT_ARTIFACT,
        "DELETE": _SELF,
    },
    "core_artifact": {"UPDATE": _ARTIFACT, "DELETE": _SELF},
    **{
        table: {"UPDATE": _SELF, "DELETE": _SELF}
        for table in ("core_repository", "core_remote", "core_contentguard", "core_domain")
    },
}

# Whose own tables, one for each kind that a plugin has, may decide too.
_MASTERS = (Distribution, ContentGuard, Remote, Repository, Publication)


class Trigger(NamedTuple):
    """A trigger that there has to be."""

    table: str
    event: str
    query: str
    """Finds the ids to tell; one that is NULL stands for all."""

    @property
    def name(self) -> str:
        return f"{FUNCTION}_{self.event.lower()}"

    def create(self) -> str:
        """Return the SQL that makes it, anew if it is there."""
        query = self.query.replace("'", "''")
        return (
            f'DROP TRIGGER IF EXISTS {self.name} ON "{self.table}";'
            f' CREATE TRIGGER {self.name} AFTER {self.event} ON "{self.table}"'
            f" REFERENCING {_TRANSITIONS[self.event]}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}('{query}')"
        )


def triggers() -> list[Trigger]:
    """Return the triggers for what is installed: pulpcore's version, and plugins."""
    known = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    core = [
        Trigger(table, event, query)
        for table, events in _DECIDING.items()
        if table in known
        for event, query in events.items()
    ]
    return core + list(_of_details())


def _of_details() -> Iterator[Trigger]:
    """On `UPDATE` alone: a row comes and goes together with its master's."""
    for model in apps.get_models():
        if model._meta.proxy or not issubclass(model, _MASTERS) or model in _MASTERS:
            continue
        column = model._meta.pk.column
        yield Trigger(model._meta.db_table, "UPDATE", f'SELECT "{column}" FROM changed')


# Triggers that are there and on, among the tables named.
COUNT = f"""
SELECT count(*) FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgfoid = to_regproc('{FUNCTION}') AND tgenabled IN ('O', 'A') AND relname = ANY(%s)
"""


_EXISTING = f"""
SELECT relname, tgname, tgargs FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgfoid = to_regproc('{FUNCTION}') AND tgenabled IN ('O', 'A')
"""


def install(**kwargs: Any) -> None:
    """Make the triggers if our migration has been applied; receives `post_migrate`.

    Here and not in the migration, since plugins and newer versions of pulpcore bring tables along
    after it. Tables that are not there (a plugin whose migrations have been undone) are left out.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT to_regproc(%s)", [FUNCTION])
        if cursor.fetchone()[0] is None:
            return
        tables = set(connection.introspection.table_names(cursor))
        cursor.execute(_EXISTING)
        existing = {(table, name, bytes(arguments)) for table, name, arguments in cursor}
        for trigger in triggers():
            # Not those that are there: to make one locks the table.
            new = (trigger.table, trigger.name, f"{trigger.query}\0".encode()) not in existing
            if new and trigger.table in tables:
                cursor.execute(trigger.create())
