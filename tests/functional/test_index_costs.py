"""Costs of the index of distributions among 30,000: rows and blocks read by its one query."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from django.db import connection, transaction

from pulpcore.app.models import (
    Domain,
    Publication,
    Repository,
    RepositoryVersion,
    RepositoryVersionContentDetails,
)
from pulpcore.content_star.listings import base_paths, distributions
from pulpcore.content_star.listings.page import PageParameters
from tests.support.query_plans import Plan, plans_of, rows_of

MANY = 30_000
REPOSITORIES = 300
VERSIONS = 4

_DISTRIBUTIONS = """
    INSERT INTO core_distribution (pulp_id, pulp_created, pulp_last_updated, pulp_type, name,
        base_path, pulp_labels, hidden, checkpoint, pulp_domain_id, repository_id)
    SELECT gen_random_uuid(), now(), now() - n * interval '1 second', 'file.file',
           format('many-%%s', n), format('many/%%s/%%s', n %% 100, n), '', false, false,
           %(domain)s, (%(repositories)s)[1 + n %% cardinality(%(repositories)s)]
    FROM generate_series(1, %(count)s) AS n
"""


@pytest.fixture(scope="module")
def domain(module_orm) -> Iterator[Domain]:
    """The domain with 30,000 distributions of 300 repositories, on this connection only.

    They are never committed: no process is notified, and nothing has to be removed.
    """
    domain = Domain.objects.get(name="default")
    with transaction.atomic():
        with connection.cursor() as cursor:
            parameters = {
                "domain": domain.pk,
                "repositories": [repository.pk for repository in add_repositories(domain)],
                "count": MANY,
            }
            cursor.execute(_DISTRIBUTIONS, parameters)
            cursor.execute("ANALYZE")
            # Each row would be looked up by a scan of the few remotes.
            cursor.execute("SET LOCAL enable_seqscan = off")
        yield domain
        transaction.set_rollback(True)


def add_repositories(domain: Domain) -> list[Repository]:
    """Add repositories with published versions of one content unit each.

    With fewer, PostgreSQL would read all publications for each row rather than an index.
    """
    repositories = Repository.objects.bulk_create(
        Repository(name=f"many-{number}", pulp_type="file.file", pulp_domain=domain)
        for number in range(REPOSITORIES)
    )
    versions = RepositoryVersion.objects.bulk_create(
        RepositoryVersion(repository=repository, number=number, complete=True)
        for repository in repositories
        for number in range(VERSIONS)
    )
    Publication.objects.bulk_create(
        Publication(pulp_type="file.file", repository_version=version, complete=True)
        for version in versions
    )
    RepositoryVersionContentDetails.objects.bulk_create(
        RepositoryVersionContentDetails(
            count_type="P", content_type="file.file", repository_version=version, count=1
        )
        for version in versions
    )
    return repositories


def cost_of(page: PageParameters, domain: Domain, prefix: str = "") -> tuple[Counter[str], int]:
    """Return the rows by table, and the blocks, that the one query of a page reads."""
    limit = distributions.PAGE_ROWS + 1
    (plan,) = plans_of(lambda: list(distributions.page_rows(page, domain, prefix)[:limit]))
    return counted(plan), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def counted(plan: Plan) -> Counter[str]:
    """Return the rows that a plan reads, by table."""
    rows: Counter[str] = Counter()
    for table, count in rows_of(plan):
        rows[table] += round(count)
    return rows


def assert_related(rows: Counter[str], listed: int) -> None:
    """Assert that a few rows are read for each one listed, but for a hash of all publications."""
    rows["core_publication"] -= REPOSITORIES * VERSIONS
    assert all(count <= 8 * listed for count in rows.values()), rows


def blocks_of(table: str) -> int:
    """Return the blocks of a table and its indexes, rows that other tests removed included."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_total_relation_size(%s) / current_setting('block_size')::int", [table]
        )
        (blocks,) = cursor.fetchone()
    return blocks


def cursor_of(sort: str) -> str:
    """Return the cursor of the page in the middle, as `_cursor` makes it."""
    field = distributions.SORTS[sort]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {field}, base_path FROM core_distribution WHERE name = %s",
            [f"many-{MANY // 2}"],
        )
        value, base_path = cursor.fetchone()
    return json.dumps([value if isinstance(value, str) else value.isoformat(), base_path])


@pytest.mark.parametrize("sort", distributions.SORTS)
@pytest.mark.parametrize("place", ["first", "middle"])
def test_index_page_reads_facts_of_its_own_rows_only(domain, sort, place):
    """Sorted by type or date, which have no index, it reads each distribution once, else a page."""
    after = cursor_of(sort) if place == "middle" else None
    has_index = sort in ("path", "name")
    for order in ("asc", "desc"):
        page = PageParameters(sort, order, after=after)
        for prefix in ("", "many/7/"):
            rows, blocks = cost_of(page, domain, prefix)
            found = rows.pop("core_distribution")
            assert_related(rows, distributions.PAGE_ROWS)
            assert found <= (4 * distributions.PAGE_ROWS if has_index else MANY + 1000)
            # Facts of all distributions would be two blocks each at least.
            assert blocks < 3000 + blocks_of("core_distribution") < 2 * MANY


def test_search_of_the_index_reads_each_distribution_once(domain):
    rows, _ = cost_of(PageParameters("path", q="9999"), domain)
    assert rows["core_distribution"] <= MANY + 1000


def test_existence_of_base_paths_ends_at_the_first(domain):
    """Distributions left by other tests may be read before it, the 30,000 are not."""
    for prefix, is_there in (("many/7/", True), ("many/", True), ("none/", False)):
        (plan,) = plans_of(lambda prefix=prefix: base_paths.has_base_paths(domain, prefix))
        assert sum(count for _, count in rows_of(plan)) <= MANY / 30, plan
        assert base_paths.has_base_paths(domain, prefix) == is_there


def test_json_index_reads_facts_of_its_own_rows_only(domain):
    prefix = "many/7/"
    segments = base_paths.next_segments(domain, prefix)
    (plan,) = plans_of(lambda: distributions.facts_by_segment(domain, prefix, segments))
    assert len(segments) == MANY / 100
    assert_related(counted(plan), len(segments))
