"""Migrations contain their SQL as text, and never change after a release."""

import ast
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import psycopg
import pytest

from pulpcore.content_star.app import migrations
from tests.support.instance import Instance

FOLDER = Path(migrations.__path__[0])
NAMES = sorted(path.stem for path in FOLDER.glob("0*.py"))

CHANGES = import_module(f"{migrations.__name__}.0001_changes")
ALIAS = import_module(f"{migrations.__name__}.0003_changes_alias")

# The function as migration 0001 created it in its first commit.
FIRST = """
CREATE OR REPLACE FUNCTION content_star_changed() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    ids uuid[];
BEGIN
    BEGIN
        EXECUTE 'SELECT array_agg(id) FROM (SELECT id FROM ('
            || TG_ARGV[0] || ') AS found (id) LIMIT 101) AS some' INTO ids;
    EXCEPTION WHEN OTHERS THEN
        ids := ARRAY[NULL::uuid];
    END;
    IF array_position(ids, NULL) IS NOT NULL OR cardinality(ids) > 100 THEN
        PERFORM pg_notify('content_star', 'all');
    ELSIF ids IS NOT NULL THEN
        PERFORM pg_notify('content_star', array_to_string(ids, ' '));
    END IF;
    RETURN NULL;
END
$function$
"""
TRIGGER = """
CREATE TABLE thing (pulp_id uuid);
CREATE TRIGGER t AFTER INSERT ON thing REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION content_star_changed('SELECT pulp_id FROM changed');
"""


@pytest.fixture
def database(instance: Instance) -> Iterator[psycopg.Connection]:
    """A connection to an empty database, which listens for notifications."""
    address = {"host": instance.address.socket_dir, "user": "pulp"}
    name = f"migrations_{uuid.uuid4().hex}"
    with psycopg.connect(**address, dbname="pulp", autocommit=True) as pulp:
        pulp.execute(f"CREATE DATABASE {name}")
        try:
            with psycopg.connect(**address, dbname=name, autocommit=True) as connection:
                connection.execute("LISTEN content_star")
                yield connection
        finally:
            pulp.execute(f"DROP DATABASE {name}")


def notified(connection: psycopg.Connection, *ids: uuid.UUID) -> str:
    """Insert rows, and return the payload of the notification."""
    connection.execute("INSERT INTO thing SELECT unnest(%s::uuid[])", [list(ids)])
    return next(connection.notifies(timeout=300, stop_after=1)).payload


def test_migration_0001_equals_that_of_the_first_commit():
    assert CHANGES.CREATE_FUNCTION == FIRST


def test_migration_0003_replaces_the_trigger_function_of_0001(database):
    first, second, third = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    database.execute(FIRST)
    database.execute(TRIGGER)
    assert notified(database, first) == "all"

    database.execute(ALIAS.REPLACE_FUNCTION)
    assert notified(database, second, third) == f"{second} {third}"
    assert notified(database, *(uuid.uuid4() for _ in range(101))) == "all"

    database.execute(CHANGES.DROP_FUNCTION)
    assert database.execute("SELECT to_regproc('content_star_changed')").fetchone() == (None,)


@pytest.mark.parametrize("name", NAMES)
def test_migrations_import_no_modules_that_may_change(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    assert {module.split(".")[0] for module in modules} <= {"django", "json", "typing"}
