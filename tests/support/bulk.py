"""Large repositories and publications, made in SQL within seconds: one artifact, many paths."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from tests.support.orm import Orm, artifact
from tests.support.pulp import unique

# The rows of saved content in a repository version, except that all files share one artifact.
_CONTENT = """
    WITH made AS (
        SELECT gen_random_uuid() AS content, format(%(form)s, n, n %% 100) AS path
        FROM generate_series(1, %(count)s) AS n
    ), units AS (
        INSERT INTO core_content (pulp_id, pulp_created, pulp_type, timestamp_of_interest,
                                  pulp_domain_id, pulp_labels)
        SELECT content, now(), 'file.file', now(), %(domain)s, '' FROM made RETURNING pulp_id
    ), details AS (
        INSERT INTO file_filecontent (content_ptr_id, relative_path, digest, _pulp_domain_id)
        SELECT content, path, encode(sha256(content::text::bytea), 'hex'), %(domain)s FROM made
    ), files AS (
        INSERT INTO core_contentartifact (pulp_id, pulp_created, relative_path, artifact_id,
                                          content_id)
        SELECT gen_random_uuid(), now(), path, %(artifact)s, content FROM made
    ), members AS (
        INSERT INTO core_repositorycontent (pulp_id, pulp_created, content_id, repository_id,
                                            version_added_id)
        SELECT gen_random_uuid(), now(), content, %(repository)s, %(version)s FROM made
    )
    UPDATE core_repositoryversion SET content_ids = (SELECT array_agg(content) FROM made)
    WHERE pulp_id = %(version)s
"""

_PUBLISH = """
    INSERT INTO core_publishedartifact (pulp_id, pulp_created, relative_path, content_artifact_id,
                                        publication_id)
    SELECT gen_random_uuid(), now(), ca.relative_path, ca.pulp_id, %(publication)s
    FROM core_contentartifact ca JOIN core_repositorycontent rc USING (content_id)
    WHERE rc.version_added_id = %(version)s
"""

_REMOVE = """
    DELETE FROM core_publishedartifact WHERE content_artifact_id IN (
        SELECT ca.pulp_id FROM core_contentartifact ca
        JOIN core_repositorycontent rc USING (content_id) WHERE rc.version_added_id = %(version)s);
    CREATE TEMPORARY TABLE gone AS
        SELECT content_id FROM core_repositorycontent WHERE version_added_id = %(version)s;
    DELETE FROM core_repositorycontent WHERE version_added_id = %(version)s;
    DELETE FROM core_contentartifact WHERE content_id IN (SELECT content_id FROM gone);
    DELETE FROM file_filecontent WHERE content_ptr_id IN (SELECT content_id FROM gone);
    DELETE FROM core_content WHERE pulp_id IN (SELECT content_id FROM gone);
    DROP TABLE gone
"""


class Bulk:
    """A repository whose version 1 holds `count` files, until `remove`."""

    def __init__(self, orm: Orm, count: int, form: str = "Packages/%s-{unique}.rpm") -> None:
        """Create the files; `form` is the path's format, of the number and its last two digits."""
        from pulpcore.app.util import get_domain_pk

        self.form = form.replace("{unique}", unique("bulk"))
        self.count = count
        self.orm = orm
        # A version of its own, so that rows made in SQL are also removed in SQL.
        empty = orm.version({})
        self.version = empty.repository.new_version()
        self.version.complete = True
        self.version.save()
        empty.repository.next_version = 2
        empty.repository.save()
        parameters = {
            "form": self.form,
            "count": count,
            "domain": get_domain_pk(),
            "artifact": artifact(b"one of many").pk,
            "repository": empty.repository_id,
            "version": self.version.pk,
        }
        with _without_triggers() as cursor:
            cursor.execute(_CONTENT, parameters)
            cursor.execute(
                "ANALYZE core_content, core_contentartifact, core_repositorycontent, core_artifact"
            )
        self.version.refresh_from_db()

    def path(self, number: int) -> str:
        """Return the path of a file by its number."""
        return self.form.replace("%s", str(number), 1).replace("%s", str(number % 100))

    def publish(self) -> Any:
        """Return a publication that has every file as a published artifact."""
        publication = self.orm.publication({}, self.version)
        type(publication).objects.filter(pk=publication.pk).update(pass_through=False)
        publication.pass_through = False
        with _without_triggers() as cursor:
            cursor.execute(_PUBLISH, {"publication": publication.pk, "version": self.version.pk})
            cursor.execute("ANALYZE core_publishedartifact")
        return publication

    def remove(self) -> None:
        """Remove the content; the repository goes with the `orm` that made it."""
        with _without_triggers() as cursor:
            cursor.execute(_REMOVE, {"version": self.version.pk})


@contextmanager
def _without_triggers() -> Iterator[CursorWrapper]:
    """Open a transaction that checks no foreign keys, and notifies of no change.

    PostgreSQL keeps the plans of these checks for a connection. One that was made while the other
    table was small reads all of it, for each of the rows: with 100,000, that takes half an hour.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        yield cursor
