"""`pulp-star compare` of upstream's content app and ours, on one database."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pulpcore.content_star.cli.compare.client import Access, Servers
from pulpcore.content_star.cli.compare.conditions import CONDITIONS
from pulpcore.content_star.cli.compare.exchange import Request
from pulpcore.content_star.cli.compare.results import Progress, Results
from pulpcore.content_star.cli.compare.runner import Options, Runner
from pulpcore.content_star.cli.compare.sources import Item
from pulpcore.content_star.differences import DIFFERENCES
from tests.parity.test_bridge import ROWS as BRIDGED
from tests.parity.test_parity import DOMAIN_ROWS, ROWS, Row
from tests.support.bridged import installed
from tests.support.compare import Run, run_compare
from tests.support.instance import Instance
from tests.support.orm import Orm
from tests.support.pulp import Pulp
from tests.support.remote_server import Upstream, serving_upstream
from tests.support.server import Server, serving
from tests.support.tampering import Answer, Seen, tampering

pytestmark = pytest.mark.slow


class Items:
    """A source of requests that are given."""

    total = done = 0

    def __init__(self, requests: list[Request]) -> None:
        self.skipped: Counter[str] = Counter()
        self.requests = requests

    async def items(self) -> AsyncIterator[Item]:
        for request in self.requests:
            yield Item(request, with_variants=False)


def compare_rows(old: str, new: str, values: dict[str, str], rows: list[Row]) -> Results:
    """Send the requests of a table to both, as the command does."""
    requests = [
        Request(
            row.path.format(**values).replace(" ", "%20").replace("é", "%C3%A9"),
            row.method,
            {name: value.format(**values) for name, value in row.headers.items()},
        )
        for row in rows
    ]
    progress = Progress(None, "")

    async def run() -> None:
        limits = {"rate": 0, "concurrency": 2, "timeout": 300}
        async with Servers(old, new, Access(), **limits) as servers:  # type: ignore[arg-type]
            await Runner(servers, Items(requests), progress, Options(2, fetch=True)).run()

    asyncio.run(run())
    return progress.results


def faults(results: Results) -> dict[str, str]:
    return {title: str(group.example) for title, group in results.faults.items()}


def test_every_difference_has_a_condition() -> None:
    assert set(CONDITIONS) == set(DIFFERENCES)


def test_compare_explains_every_row_of_the_parity_tests(
    instance: Instance, upstream: str, values: dict[str, str]
) -> None:
    rows = [row for row in ROWS if not row.path.startswith("..")]  # not below the base URL
    results = compare_rows(upstream, instance.content_url, values, rows)
    assert faults(results) == {}
    assert results.compared == len(rows)


def test_compare_explains_domains(
    domain_instance: str, domain_upstream: str, domain_values: dict[str, str]
) -> None:
    results = compare_rows(domain_upstream, domain_instance, domain_values, DOMAIN_ROWS)
    assert faults(results) == {}


@pytest.fixture(scope="module")
def bridging(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(instance, **installed(tmp_path_factory.mktemp("notes"))) as server:
        yield server


def test_compare_explains_plugins(
    instance: Instance, theirs: Server, bridging: Server, pulp: Pulp
) -> None:
    repository = pulp.repository({"a.txt": b"0123456789"})
    pulp.publish(repository)
    values = {"bridged": pulp.distribute(repository=repository), "basic": pulp.auth._auth_header}
    host = {"Host": "pulp.example.org"}
    rows = [Row(row.path, "", {**host, **row.headers}, row.method) for row in BRIDGED]
    results = compare_rows(theirs.content_url, bridging.content_url, values, rows)
    assert faults(results) == {}


@pytest.fixture
def compare(instance: Instance, upstream: str, tmp_path: Path) -> Callable[..., Run]:
    """Run the command with upstream's app as the old server."""

    def run(*arguments: str, new: str = "") -> Run:
        new = new or instance.content_url
        return run_compare(tmp_path / "report.json", upstream, new, *arguments)

    return run


def test_compare_finds_distributions_in_the_api(
    compare: Callable[..., Run], instance: Instance, pulp: Pulp, orm: Orm
) -> None:
    """Root, listings, metadata and files of each distribution, guarded ones too."""
    guard = pulp.create("contentguards/core/rbac/", name=orm.unique())
    repository = pulp.repository({"deep/er/a.rpm": b"0123456789", "b": b"b"})
    pulp.publish(repository)
    base = pulp.distribute(repository=repository, content_guard=guard["pulp_href"])
    user = ("--api", instance.url, "--username", "admin", "--password", instance.password)
    with tampering(instance.url) as proxy:
        code, out, report = compare(*user, "--files", "3", new=proxy.url)
    assert code == 0, out
    asked = {seen.target.removeprefix("/pulp/content/") for seen in proxy.seen}
    paths = {"", f"{base}", f"{base}/", f"{base}/PULP_MANIFEST", f"{base}/b"}
    assert paths | {f"{base}/deep/", f"{base}/deep/er/", f"{base}/deep/er/a.rpm"} <= asked
    assert {seen.method for seen in proxy.seen} == {"GET", "HEAD"}
    assert "validators" in report["intended"]


def test_compare_finds_a_wrong_byte_behind_intended_differences(
    compare: Callable[..., Run], instance: Instance, orm: Orm, tmp_path: Path
) -> None:
    """Headers differ on purpose; an entity tag that is not the file's, or a byte, do not."""
    base = orm.distribution(publication=orm.publication({"a.txt": b"0123456789"}))
    (tmp_path / "urls").write_text(f"{base}/a.txt\n")

    def wrong(seen: Seen, answer: Answer) -> None:
        if seen.method == "GET" and seen.target.endswith("a.txt") and answer.status == 200:
            answer.body = b"x123456789"
            answer.headers["etag"] = f'"{"0" * 64}"'

    with tampering(instance.url, wrong) as proxy:
        code, out, report = compare("--urls", str(tmp_path / "urls"), new=proxy.url)
    assert code == 1, out
    assert set(report["differences"]) == {
        "header etag of 200 for GET",
        "body of 200 for GET",
        "status 304 -> 200 for conditional",  # a client that repeats that tag
    }
    assert set(report["intended"]) >= {"validators", "security headers"}


FAR = "compare-far.txt"
"""No other test has it: content units are shared, and so are their remotes."""


@pytest.fixture
def on_demand(pulp: Pulp) -> Iterator[tuple[Upstream, str]]:
    """A server, and the base path of a repository of its file, which is not saved yet."""
    with serving_upstream() as server:
        server.files = {FAR: b"far away"}
        server.files["PULP_MANIFEST"] = server.manifest(FAR)
        url = f"{server.url}PULP_MANIFEST"
        remote = pulp.create("remotes/file/file/", name=Orm.unique(), url=url, policy="on_demand")
        repository = pulp.repository(autopublish=True)
        sync = {"remote": remote["pulp_href"]}
        pulp.task(pulp.http.post(f"{repository}sync/", json=sync))
        yield server, pulp.distribute(repository=repository)


def test_compare_fetches_on_demand_content_only_if_asked_to(
    compare: Callable[..., Run], on_demand: tuple[Upstream, str], tmp_path: Path
) -> None:
    server, base = on_demand
    (tmp_path / "urls").write_text(f"{base}/{FAR}\n{base}/PULP_MANIFEST\n")
    before = server.gets[FAR]
    code, out, report = compare("--urls", str(tmp_path / "urls"))
    assert code == 0, out
    assert server.gets[FAR] == before
    assert list(report["skipped"].values()) == [1]
    assert "1 files on demand, which are only fetched with --fetch" in out
    assert report["requests"]["GET"] == 1

    code, out, report = compare("--urls", str(tmp_path / "urls"), "--fetch")
    assert code == 0, out
    assert report["requests"]["GET"] == 2
    assert server.gets[FAR] > before
