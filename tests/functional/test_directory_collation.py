"""Directories in a database whose collation is not C: results, query costs, and the indexes."""

import json
from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.db import OperationalError, connection

from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings.pagination import PageQuery
from pulpcore.content_star.resolve.content import ContentSource
from tests.support.bulk import Bulk
from tests.support.collation import EDITOR, copies_of_paths, migration, seeing_copies
from tests.support.instance import Instance
from tests.support.orm import Orm
from tests.support.query_plans import plans_of

pytestmark = pytest.mark.slow

NAMES = [index.name for index in migration.INDEXES]
MANY = 100_000


@pytest.fixture(scope="module")
def bulk(instance: Instance) -> Iterator[Bulk]:
    """Each file in a directory of its own, with LIKE's special characters in the names."""
    orm = Orm()
    bulk = Bulk(orm, MANY, "Packages/%s-{unique}/100%%_\\/é")
    yield bulk
    bulk.remove()
    orm.cleanup()


@pytest.fixture(scope="module")
def sources(bulk) -> dict[str, ContentSource]:
    published = bulk.publish()
    pass_through = bulk.orm.publication({}, bulk.version)
    assert pass_through.pass_through
    return {
        "version": ContentSource(None, bulk.version),
        "publication": ContentSource(published, bulk.version),
        "pass-through": ContentSource(pass_through, bulk.version),
    }


@pytest.fixture(scope="module")
def schema(sources) -> Iterator[None]:
    """Copies of the two tables with paths, with another collation than C."""
    with copies_of_paths():
        yield


@pytest.fixture
def other(schema) -> Iterator[None]:
    """Make the copies the tables of this connection."""
    with seeing_copies():
        yield


@pytest.fixture
def indexed(other) -> None:
    migration.create(None, EDITOR)
    assert indexes() == dict.fromkeys(NAMES, True)


def indexes() -> dict[str, bool]:
    """Return our indexes on this connection's tables by name, and whether each is valid."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, indisvalid FROM unnest(%s::text[]) AS name"
            " JOIN pg_index ON indexrelid = to_regclass(name)",
            [NAMES],
        )
        return dict(cursor.fetchall())


def test_migration_of_indexes_creates_none_with_collation_c(bulk):
    assert indexes() == {}, "after the migrations of the instance"


def test_migration_of_indexes_can_be_repeated_and_reversed(indexed):
    migration.create(None, EDITOR)
    assert indexes() == dict.fromkeys(NAMES, True)
    migration.drop(None, EDITOR)
    assert indexes() == {}
    migration.drop(None, EDITOR)


def test_migration_of_indexes_accepts_an_equivalent_index(other):
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE INDEX theirs ON core_contentartifact (relative_path varchar_pattern_ops)"
        )
        migration.create(None, EDITOR)
        cursor.execute("DROP INDEX theirs")
    assert list(indexes()) == ["content_star_published_path"]


def test_migration_of_indexes_replaces_an_invalid_index(other):
    with psycopg.connect(**connection.get_connection_params() | {"autocommit": False}) as writer:
        writer.execute("LOCK TABLE other.core_contentartifact IN ROW EXCLUSIVE MODE")
        with connection.cursor() as cursor, pytest.raises(OperationalError):
            cursor.execute("SET lock_timeout = 100")
            migration.create(None, EDITOR)
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")
    assert indexes() == {"content_star_path": False}
    migration.create(None, EDITOR)
    assert indexes() == dict.fromkeys(NAMES, True)


@pytest.mark.parametrize("database", ["bulk", "other", "indexed"])
@pytest.mark.parametrize("kind", ["version", "publication", "pass-through"])
def test_directory_lookup_is_the_same_with_every_collation(request, bulk, sources, database, kind):
    request.getfixturevalue(database)
    source = sources[kind]
    one = bulk.path(7).split("/")[1]
    inside = f"Packages/{one}/100%_\\/"
    for path in ("", "Packages/", f"Packages/{one}/", inside):
        assert directory.exists(source, path), path
    for path in (
        "nothing/",
        "packages/",
        f"Packages/{one.replace('-', '_')}/",
        f"Packages/{one[:-1]}/",
        f"Packages/{one}/100%/",
        f"Packages/{one}/100%_/",
        f"Packages/{one}/100%__/",
        f"Packages/{one}/1%_\\/",
        "%/",
        "\\/",
    ):
        assert not directory.exists(source, path), path
    assert [entry.name for entry in directory.entries(source, inside)] == ["é"]
    below = directory.entries(source, f"Packages/{one}/")
    assert [entry.name for entry in below] == ["100%_\\/"]
    if kind != "publication":
        return
    names = directory._next_names(source, "Packages/", "Packages/", 3)
    assert names == [
        entry.name for entry in directory.entries(source, "Packages/", PageQuery(None, 3))
    ]


def blocks_of(ask: Callable[[], object]) -> tuple[int, str]:
    """Return the number of blocks read by the queries of `ask`, and their plans."""
    directory.path_order()
    plans = plans_of(ask)
    blocks = sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)
    return blocks, json.dumps(plans, indent=1)


LOOKUPS: dict[str, Callable[[ContentSource, str], object]] = {
    "exists": directory.exists,
    "all of it": directory.entries,
    "a page": lambda source, path: directory.entries(source, path, PageQuery(None, 1001)),
}


@pytest.mark.parametrize("database", ["bulk", "indexed"])
@pytest.mark.parametrize("kind", ["version", "publication", "pass-through"])
@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.parametrize("path", ["nothing/", "{one}/"])
def test_small_directory_reads_under_100_blocks(request, bulk, sources, database, kind, name, path):
    request.getfixturevalue(database)
    path = path.format(one=bulk.path(7).rsplit("/", 2)[0])
    blocks, plan = blocks_of(lambda: LOOKUPS[name](sources[kind], path))
    assert blocks < 100, plan


@pytest.mark.parametrize("kind", ["version", "publication", "pass-through"])
def test_directory_lookup_without_the_indexes_reads_more_blocks(other, sources, kind):
    """Shows that the test of blocks above needs the indexes to pass."""
    blocks, plan = blocks_of(lambda: directory.exists(sources[kind], "nothing/"))
    assert blocks > (1000 if kind != "pass-through" else 500), plan
