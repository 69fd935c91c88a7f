"""The number of rows that PostgreSQL reads for a page of a directory, by its query plans."""

from collections.abc import Iterator

import pytest

from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings.pagination import PageQuery
from pulpcore.content_star.resolve.content import ContentSource
from tests.support.bulk import Bulk
from tests.support.collation import copies_of_paths, seeing_copies
from tests.support.query_plans import Plan, plans_of, rows_of

MANY = 20_000


@pytest.fixture(scope="module")
def flat(module_orm) -> Iterator[Bulk]:
    bulk = Bulk(module_orm, MANY)
    yield bulk
    bulk.remove()


@pytest.fixture(scope="module")
def tree(module_orm) -> Iterator[Bulk]:
    """A hundred directories of two hundred files each."""
    bulk = Bulk(module_orm, MANY, "Trees/%2$s/%1$s-{unique}")
    yield bulk
    bulk.remove()


@pytest.fixture(scope="module")
def sources(flat, tree) -> dict[str, ContentSource]:
    return {
        f"{name} {kind}": source
        for name, bulk in (("flat", flat), ("tree", tree))
        for kind, source in {
            "version": ContentSource(None, bulk.version),
            "publication": ContentSource(bulk.publish(), bulk.version),
            "pass-through": ContentSource(bulk.orm.publication({}, bulk.version), bulk.version),
        }.items()
    }


@pytest.fixture(scope="module", params=["core", "indexed"])
def database(request, sources) -> Iterator[None]:
    """The collation of the instance's database, which is C; another, and our indexes."""
    if request.param == "core":
        yield
    else:
        with copies_of_paths(), seeing_copies(indexed=True):
            yield


# Paths, files and memberships. Not the versions: PostgreSQL scans a table of one page for each
# row, which includes the versions of other tests.
TABLES = ("core_publishedartifact", "core_contentartifact", "core_repositorycontent")
PAGE_ROWS = len(TABLES) * (directory.ROWS + 1)


def rows_read(source: ContentSource, path: str, after: str | None) -> tuple[float, list[Plan]]:
    """Return the rows of TABLES read for a page of 1000 entries, and the query plans."""
    directory.path_order()
    plans = plans_of(lambda: directory.entries(source, path, PageQuery(after, 1001)))
    rows = (row for plan in plans for row in rows_of(plan))
    return sum(count for table, count in rows if table in TABLES), plans


KINDS = ("version", "publication", "pass-through")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [None, "1500", "5"])
def test_page_of_large_directory_reads_rows_of_the_page_only(sources, database, kind, after):
    source = sources[f"flat {kind}"]
    assert len(directory.entries(source, "Packages/", PageQuery(after, 1001))) == 1001
    rows, plans = rows_read(source, "Packages/", after)
    assert rows <= PAGE_ROWS + 1, plans


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "path"), [("flat", "Packages/"), ("tree", "Trees/")])
def test_page_beyond_the_end_reads_under_10_rows(sources, database, name, kind, path):
    source = sources[f"{name} {kind}"]
    assert directory.entries(source, path, PageQuery("\U0010ffff", 1001)) == []
    rows, plans = rows_read(source, path, "\U0010ffff")
    assert rows < 10, plans


@pytest.mark.parametrize("kind", KINDS)
def test_page_of_large_subdirectories_reads_all_rows_once(sources, database, kind, monkeypatch):
    monkeypatch.setattr(directory, "entry_cache", directory.EntryCache(1000))
    source = sources[f"tree {kind}"]
    page = directory.entries(source, "Trees/", PageQuery(None, 1001))
    assert [entry.name for entry in page] == sorted(f"{number}/" for number in range(100))
    rows, plans = rows_read(source, "Trees/", None)
    assert rows < PAGE_ROWS + 110, plans
    rows, plans = rows_read(source, "Trees/", "98/")
    assert rows < 200 * len(TABLES) + 10, plans


def test_subdirectory_names_of_a_publication_are_found_by_skip_scan(sources, database):
    source = sources["tree publication"]
    directory.path_order()
    found: list[str] = []
    (plan,) = plans_of(lambda: found.extend(directory._next_names(source, "Trees/", "Trees/", 99)))
    assert found == sorted(f"{number}/" for number in range(100))[:99]
    assert sum(count for _, count in rows_of(plan)) < 110, plan


@pytest.mark.parametrize("after", [None, "\U0010ffff"])
def test_page_of_small_version_does_not_read_the_paths_of_other_repositories(
    sources, tree, monkeypatch, after
):
    """Even where the version is not known to be sparse among the paths of a directory."""
    monkeypatch.setattr(directory, "PATHS", 1000)
    monkeypatch.setattr(directory, "_is_sparse", lambda source: False)
    few = Bulk(tree.orm, 10, "Trees/%2$s-{unique}")
    try:
        source = ContentSource(None, few.version)
        assert len(directory.entries(source, "Trees/", PageQuery(after, 1001))) == (
            0 if after else 10
        )
        monkeypatch.setattr(directory, "entry_cache", directory.EntryCache(0))
        _, plans = rows_read(source, "Trees/", after)
        read = [dict(rows_of(plan)) for plan in plans]
        assert sum(rows.get("core_repositorycontent", 0) for rows in read) < 1100, plans
    finally:
        few.remove()


def test_page_of_sparse_version_is_read_by_its_members(sources, tree):
    """There is no index on the paths of one version, only on all paths."""
    small = Bulk(tree.orm, 10, "Trees/5%2$s-{unique}")
    try:
        source = ContentSource(None, small.version)
        assert directory._is_sparse(source)
        assert not directory._is_sparse(sources["tree version"])
        rows, plans = rows_read(source, "Trees/", None)
        assert rows < 10 * len(TABLES) + 10, plans
    finally:
        small.remove()


def test_sparseness_of_a_version_is_known_without_reading_its_ids(sources):
    (plan,) = plans_of(lambda: directory._is_sparse(sources["flat version"]))
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20, plan
