"""SQL queries of a cache miss: their number, query plans, and prepared statements."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import psycopg
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from starlette.requests import Request

from pulpcore.app.models import Distribution, Publication, Repository, RepositoryVersion
from pulpcore.content_star.cli.state import DATABASE
from pulpcore.content_star.database import queries
from pulpcore.content_star.database.prepared import Query
from pulpcore.content_star.resolve.content import ContentSource, files
from pulpcore.content_star.resolve.distribution import find_distribution
from pulpcore.content_star.resolve.paths import ContentPath
from pulpcore.content_star.views import respond
from tests.support.bulk import Bulk
from tests.support.instance import wait_until
from tests.support.pgbouncer import pgbouncer
from tests.support.server import serving

MANY = 100_000


@pytest.fixture(scope="module")
def bulk(module_orm) -> Iterator[Bulk]:
    bulk = Bulk(module_orm, MANY)
    yield bulk
    bulk.remove()


@pytest.fixture(scope="module")
def small(module_orm) -> Iterator[Bulk]:
    bulk = Bulk(module_orm, 1000)
    yield bulk
    bulk.remove()


@pytest.fixture(scope="module")
def published(bulk) -> Publication:
    return bulk.publish()


@pytest.fixture(scope="module")
def crowded_base(bulk, published) -> Iterator[str]:
    """A base path among thousands of distributions, repositories, versions and publications."""
    repository = bulk.orm.version({}).repository
    repositories = Repository.objects.bulk_create(
        Repository(name=bulk.orm.unique(), pulp_type="file.file") for _ in range(5000)
    )
    versions = RepositoryVersion.objects.bulk_create(
        RepositoryVersion(repository=repository, number=number, complete=True)
        for number in range(10, 5000)
    )
    publications = Publication.objects.bulk_create(
        Publication(repository_version=version, complete=True, pulp_type="file.file")
        for version in versions
    )
    top = bulk.orm.unique()
    # In batches: the plan of the trigger's query is made for the rows that the table has before.
    distributions = Distribution.objects.bulk_create(
        (
            Distribution(name=f"{top}/{number}", base_path=f"{top}/{number}", pulp_type="file.file")
            for number in range(5000)
        ),
        batch_size=500,
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE core_distribution, core_repositoryversion, core_publication")
        cursor.execute("ANALYZE core_repository")
    yield f"{top}/77"
    for made in (distributions, publications, versions, repositories):
        type(made[0]).objects.filter(pk__in=[each.pk for each in made])._raw_delete("default")


def parameters_of(query: Query, bulk: Bulk, published: Publication, base: str) -> dict[str, object]:
    """Return values for the parameters of `query` with which it finds a row."""
    values = {
        "domain": "default",
        "prefixes": [base.partition("/")[0], base, f"{base}/x"],
        "paths": [bulk.path(4711)],
        "repository": bulk.version.repository_id,
        "number": bulk.version.number,
        "version": bulk.version.pk,
        "publication": published.pk,
    }
    return {name: values[name] for name in query.parameters}


QUERIES = [name for name, value in vars(queries).items() if isinstance(value, Query)]


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_query_plans_use_indexes(bulk, published, crowded_base, name, mode):
    query: Query = getattr(queries, name)
    parameters = parameters_of(query, bulk, published, crowded_base)
    assert query.one(parameters) is not None
    with connection.cursor() as cursor:
        cursor.execute(f"SET plan_cache_mode = {mode}")
        try:
            values = ", ".join(f"%({name})s" for name in query.parameters)
            execute = f"EXECUTE {query.name.decode()} ({values})"
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {execute}", parameters)
            plan = [line for (line,) in cursor]
        finally:
            cursor.execute("RESET plan_cache_mode")
    # Domains and content guards are few on any Pulp.
    scans = [line for line in plan if "Seq Scan" in line]
    assert not [
        line for line in scans if "core_domain" not in line and "contentguard" not in line
    ], plan
    read = sum(map(int, re.findall(r"hit=(\d+)", plan[1]))) + sum(
        map(int, re.findall(r"read=(\d+)", plan[1]))
    )
    assert read < 60, plan


def test_query_of_a_file_reads_as_many_rows_in_a_large_repository(bulk, small):
    def rows_read(each: Bulk) -> list[tuple[str, float]]:
        parameters = {
            "paths": [each.path(7)],
            "repository": each.version.repository_id,
            "number": each.version.number,
        }
        with connection.cursor() as cursor:
            text = f"EXPLAIN (ANALYZE, FORMAT JSON) {queries.FILES_CONTAINED.text}"
            cursor.execute(text, parameters)
            (plan,) = cursor.fetchone()
        found: list[tuple[str, float]] = []
        _walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"], found)
        return sorted(found)

    assert rows_read(bulk) == rows_read(small)


def _walk(node: dict, found: list[tuple[str, float]]) -> None:
    if "Relation Name" in node:
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        found.append((node["Relation Name"], rows * node["Actual Loops"]))
    for child in node.get("Plans", ()):
        _walk(child, found)


def respond_to(path: str):
    """Return the response to GET, made in this thread as the executor's threads do."""
    scope = {"type": "http", "method": "GET", "path": f"/pulp/content/{path}"}
    request = Request({**scope, "headers": [], "query_string": b""})
    return respond(request, ContentPath("default", path))


@pytest.fixture
def sample(orm) -> dict[str, str]:
    """Base paths of distributions with the file `a`, by kind."""
    version = orm.version({"a": b"a"})
    publication = orm.publication({"meta": b"x"}, version)
    plain = orm.version({"a": b"a"})
    return {
        "publication": orm.distribution(publication=publication),
        "version": orm.distribution(repository_version=version),
        "repository": orm.distribution(repository=version.repository),
        "plain version": orm.distribution(from_publication=False, repository_version=plain),
        "plain repository": orm.distribution(from_publication=False, repository=plain.repository),
    }


KINDS = {
    "publication": 2,
    "version": 3,
    "repository": 3,
    "plain version": 2,
    "plain repository": 3,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "meta"])
def test_queries_of_a_file_are_three_at_most(sample, kind, name):
    if name == "meta" and kind.startswith("plain"):
        pytest.skip("not published")
    with CaptureQueriesContext(connection) as captured:
        response = respond_to(f"{sample[kind]}/{name}")
    assert response.source.name.startswith("/")
    sql = [query["sql"] for query in captured]
    assert len(sql) == KINDS[kind], sql
    assert not any("content_ids" in query or "starts_with" in query for query in sql)


@pytest.fixture
def unprepared(monkeypatch) -> Iterator[None]:
    """Clear the registry of prepared statements, and close the connection afterwards."""
    monkeypatch.setattr(Query, "prepares", True)
    monkeypatch.setattr(Query, "_prepared", type(Query._prepared)())
    yield
    connection.close()  # its statements are no longer those of the registry


def test_prepared_statement_lost_by_a_pooler_turns_preparing_off(sample, unprepared):
    path = f"{sample['publication']}/a"
    respond_to(path)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    assert respond_to(path).source.name.startswith("/")
    assert not Query.prepares
    assert respond_to(path).source.name.startswith("/")


def test_prepared_statement_of_a_pooled_session_is_reused(sample, unprepared):
    path = f"{sample['publication']}/a"
    respond_to(path)
    Query._prepared.clear()  # as a new connection to the same session of the pooler
    assert respond_to(path).source.name.startswith("/")
    assert Query.prepares


def test_prepared_statements_behind_a_pooler_of_two_sessions(instance, orm, tmp_path):
    """A request whose statement was prepared in the other session is answered unprepared."""
    base = orm.distribution(publication=orm.publication({"a": b"text of a", "b": b"text of b"}))
    with (
        pgbouncer(instance, tmp_path, sessions=2) as pooler,
        serving(instance, **pooler.environ) as server,
        httpx.Client(base_url=f"{server.content_url}{base}/") as client,
    ):

        def fetch() -> None:
            assert [client.get(name).text for name in "ab"] == ["text of a", "text of b"]

        def is_unprepared() -> bool:
            fetch()
            address = {"host": "127.0.0.1", "port": pooler.port, "user": DATABASE}
            with psycopg.connect(**address, dbname=DATABASE) as holder:
                holder.execute("SELECT 1")  # begins a transaction, which holds one session
                fetch()
            return "A pooler assigned another session" in server.said()

        wait_until(is_unprepared, explain=server.said)
        fetch()


def test_prepared_statement_is_prepared_again_after_a_column_changed_its_type(sample, unprepared):
    """PostgreSQL: "cached plan must not change result type", as after a migration."""
    path = f"{sample['publication']}/a"
    respond_to(path)
    names = {name for prepared in Query._prepared.values() for name in prepared}
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE core_distribution ALTER name TYPE varchar(300)")
        try:
            assert respond_to(path).source.name.startswith("/"), "executed unprepared"
            assert respond_to(path).source.name.startswith("/")
            cursor.execute("SELECT name FROM pg_prepared_statements")
            prepared = {name.encode() for (name,) in cursor.fetchall()}
        finally:
            cursor.execute("ALTER TABLE core_distribution ALTER name TYPE text")
    assert Query.prepares
    assert names <= prepared, "each is prepared again"


def test_deferred_fields_are_named_to_from_db(sample, monkeypatch):
    """Django documents `from_db(db, field_names, values)`, and overrides rely on it."""
    seen = []

    def from_db(cls, db, field_names, values):
        seen.append((list(field_names), len(values)))
        return super(RepositoryVersion, cls).from_db(db, field_names, values)

    monkeypatch.setattr(RepositoryVersion, "from_db", classmethod(from_db), raising=False)
    respond_to(f"{sample['version']}/a")
    assert seen
    for names, count in seen:
        assert "content_ids" not in names
        assert len(names) == count


@pytest.mark.parametrize("threshold", [0, None])
@pytest.mark.parametrize("name", QUERIES)
def test_parameters_are_not_part_of_the_sql(instance, unprepared, monkeypatch, name, threshold):
    """An array is one parameter of the protocol, prepared or not: PostgreSQL shows `$1` for it."""
    options = {**connection.settings_dict["OPTIONS"], "prepare_threshold": threshold}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    query: Query = getattr(queries, name)
    pk = uuid4()
    values = {"text": "a", "text[]": ["a/b", "a"], "uuid": pk, "integer": 4711}
    shown = {"text": "a", "text[]": "{a/b,a}", "uuid": pk.hex, "integer": "4711"}
    parameters = {name: values[kind] for name, kind in query.parameters.items()}
    query.one(parameters)
    sent = messages(lambda: query.one(parameters))
    assert bool(Query._prepared) == (threshold == 0)
    assert not [line for line in sent if "\tQuery\t" in line], "the text of the simple protocol"
    (bind,) = [line for line in sent if "\tBind\t" in line]
    assert re.findall(r"'(.*?)'", bind) == [shown[kind] for kind in query.parameters.values()]
    parses = [line for line in sent if "\tParse\t" in line]
    assert len(parses) == (0 if threshold == 0 else 1)
    assert not [line for line in parses if "$1" not in line]


def messages(work: Callable[[], object]) -> list[str]:
    """Return the messages of PostgreSQL's protocol that `work` sends, as libpq's trace has them."""
    connection.ensure_connection()
    pgconn = connection.connection.pgconn
    with tempfile.TemporaryFile() as file:
        pgconn.trace(file.fileno())
        try:
            work()
        finally:
            pgconn.untrace()
        file.seek(0)
        # Line feeds are in the text of a statement too.
        return re.split(r"\n(?=[FB]\t|\d{4}-)", file.read().decode())


@pytest.mark.parametrize("path", ["a" + "/" * 2700, "/".join(["ab"] * 900)])
def test_deep_path_sends_a_prepared_statement_little(instance, unprepared, path):
    """2,700 slashes were a statement of 3.6 MB and 181 ms of CPU."""
    deep = ContentPath("default", path)
    find_distribution(deep)
    sent = [line.split("\t") for line in messages(lambda: find_distribution(deep))]
    sizes = {kind.split("\n")[0]: int(size) for _, way, size, kind, *_ in sent if way == "F"}
    assert "Parse" not in sizes
    assert sizes["Bind"] < 4000


def test_prepared_statements_are_not_used_in_a_transaction(sample, unprepared):
    with transaction.atomic():
        assert respond_to(f"{sample['publication']}/a").source.name.startswith("/")
    assert not Query._prepared


def test_prepared_statements_are_disabled_by_prepare_threshold(sample, unprepared, monkeypatch):
    options = {**connection.settings_dict["OPTIONS"], "prepare_threshold": None}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert respond_to(f"{sample['publication']}/a").source.name.startswith("/")
    assert not Query._prepared


def test_query_of_a_path_in_old_versions_finds_their_content(orm):
    empty = orm.version({})
    repository = empty.repository
    first, second = orm.content({"same": b"1"}), orm.content({"same": b"2"})
    versions = []
    for add, remove in [
        (first, None),
        (None, first),
        (second, None),
        (None, second),
        (first, None),
    ]:
        with repository.new_version() as version:
            if add is not None:
                version.add_content(add)
            if remove is not None:
                version.remove_content(remove)
        versions.append(version)

    def content_at(version):
        found = files(ContentSource(None, version), ["same"]).get("same")
        return found and found.content_artifact.artifact.file.read()

    assert [content_at(version) for version in versions] == [b"1", None, b"2", None, b"1"]
    assert content_at(empty) is None


def test_find_distribution_loads_the_columns_of_the_plugin_model(sample):
    found = find_distribution(ContentPath("default", sample["publication"]))
    whole = type(found.distribution).objects.get(pk=found.distribution.pk)
    for field in whole._meta.concrete_fields:
        assert getattr(found.distribution, field.attname) == getattr(whole, field.attname)
    assert type(found.distribution.publication.repository_version) is RepositoryVersion
