"""Database triggers that notify every process of committed changes, by the rows' primary keys.

They are on the tables that responses are made from, and so cover all writers: workers, API
processes and content apps of any version, and SQL by hand. A statement sends one payload for all
its rows: their primary keys, or `all` for more than 100. PostgreSQL sends it when the transaction
commits, and equal payloads of a transaction once.

A trigger never makes the write fail: if its query does (a newer pulpcore removed a column), the
payload is `all`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps
from django.db import connection, transaction

from pulpcore.plugin.models import ContentGuard, Distribution, Publication, Remote, Repository

# The trigger function, created by a migration that has its SQL.
FUNCTION = "content_star_changed"

CHANNEL = "content_star"

ALL = "all"
"""Payload for any row: sent for more than 100 ids, as PostgreSQL limits a payload to 8000 bytes."""

# ruff: noqa: S608 - all strings put into SQL here are constants of this module

# `changed` has the rows after an INSERT or UPDATE, or before a DELETE; `before`, before an UPDATE.
_TRANSITIONS = {
    "INSERT": "NEW TABLE AS changed",
    "UPDATE": "NEW TABLE AS changed OLD TABLE AS before",
    "DELETE": "OLD TABLE AS changed",
}

_SELF = "SELECT pulp_id FROM changed"

# A nested base path also affects the distributions above: it takes paths away from them.
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

# Only of complete publications: others are not served, and publishing inserts many rows.
_PUBLISHED = """SELECT pulp_id FROM core_publication
WHERE complete AND pulp_id IN (SELECT publication_id FROM changed)"""

# Saving an on-demand file (an artifact is set) affects no cached response. A new path may have
# not-found entries, of which no key is known: NULL stands for all.
_CONTENT_ARTIFACT = """SELECT CASE
    WHEN c.relative_path = b.relative_path AND c.content_id = b.content_id THEN c.pulp_id END
FROM changed c JOIN before b ON b.pulp_id = c.pulp_id
WHERE c.relative_path <> b.relative_path OR c.content_id <> b.content_id
    OR (b.artifact_id IS NOT NULL AND b.artifact_id IS DISTINCT FROM c.artifact_id)"""

# Content has its files before it is added to a repository: until then nothing is affected.
_NEW_CONTENT_ARTIFACT = """SELECT NULL::uuid FROM changed c
WHERE EXISTS (SELECT FROM core_repositorycontent m WHERE m.content_id = c.content_id) LIMIT 1"""

_ARTIFACT = """SELECT c.pulp_id FROM changed c JOIN before b ON b.pulp_id = c.pulp_id
WHERE (c.file, c.size, c.sha256) IS DISTINCT FROM (b.file, b.size, b.sha256)"""

_WATCHED_TABLES: dict[str, dict[str, str]] = {
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

# Models whose detail tables, one for each type of a plugin, are watched as well.
_MASTER_MODELS = (Distribution, ContentGuard, Remote, Repository, Publication)


class Trigger(NamedTuple):
    """A required trigger: on the statements of one kind (`event`) on one table."""

    table: str
    event: str
    query: str
    """Selects the primary keys to send; a NULL stands for all rows."""

    @property
    def name(self) -> str:
        return f"{FUNCTION}_{self.event.lower()}"

    def create(self) -> str:
        """Return the SQL that creates or replaces the trigger."""
        query = self.query.replace("'", "''")
        return (
            f'DROP TRIGGER IF EXISTS {self.name} ON "{self.table}";'
            f' CREATE TRIGGER {self.name} AFTER {self.event} ON "{self.table}"'
            f" REFERENCING {_TRANSITIONS[self.event]}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}('{query}')"
        )


def triggers() -> list[Trigger]:
    """Return the required triggers for the installed versions of pulpcore and its plugins."""
    tables = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    core = [
        Trigger(table, event, query)
        for table, events in _WATCHED_TABLES.items()
        if table in tables
        for event, query in events.items()
    ]
    return core + list(_detail_triggers())


def _detail_triggers() -> Iterator[Trigger]:
    """Yield triggers on UPDATE; INSERT and DELETE also change the master's row."""
    for model in apps.get_models():
        if model._meta.proxy or not issubclass(model, _MASTER_MODELS) or model in _MASTER_MODELS:
            continue
        column = model._meta.pk.column
        yield Trigger(model._meta.db_table, "UPDATE", f'SELECT "{column}" FROM changed')


# Number of enabled triggers on the given tables.
COUNT_ENABLED = f"""
SELECT count(*) FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgfoid = to_regproc('{FUNCTION}') AND tgenabled IN ('O', 'A') AND relname = ANY(%s)
"""


_EXISTING = f"""
SELECT relname, tgname, tgargs FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgfoid = to_regproc('{FUNCTION}') AND tgenabled IN ('O', 'A')
"""


def install(**kwargs: Any) -> None:
    """Create missing triggers if the migration of their function is applied.

    Connected to `post_migrate`, since plugins and newer versions of pulpcore add tables after that
    migration. Tables that do not exist (a plugin whose migrations are reversed) are skipped.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT to_regproc(%s)", [FUNCTION])
        if cursor.fetchone()[0] is None:
            return
        tables = set(connection.introspection.table_names(cursor))
        cursor.execute(_EXISTING)
        existing = {(table, name, bytes(arguments)) for table, name, arguments in cursor}
        for trigger in triggers():
            # Existing ones are not replaced: CREATE TRIGGER locks the table.
            is_missing = (
                trigger.table,
                trigger.name,
                f"{trigger.query}\0".encode(),
            ) not in existing
            if is_missing and trigger.table in tables:
                cursor.execute(trigger.create())
