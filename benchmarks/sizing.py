"""The cost of a request to one process of ours: its CPU, PostgreSQL's, memory, connections.

docs/sizing.md calculates processes from it. CPU time suffers little from other work.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import psutil

from benchmarks.cases import Case, Sample, Target, distinct, same, unchanged
from benchmarks.data import MEDIUM, ONE, PACKAGES_20K, Data
from benchmarks.measure import cpu_seconds, processes
from benchmarks.report import machine
from benchmarks.servers import Can, pulp
from tests.support.instance import Instance
from tests.support.server import Server, serving

OPTIONS = (
    *("--http", "pulpcore.content_star.server:HttpProtocol"),
    *("--no-access-log", "--log-level", "warning"),
)

CASES = (
    Case("304 of a cached file", ONE, Can.FILES, unchanged),
    Case("cached file of 4 KiB", ONE, Can.SMALL, partial(same, ONE)),
    Case(
        "distinct files of 4 KiB, none cached",
        PACKAGES_20K,
        Can.FILES,
        partial(distinct, PACKAGES_20K),
    ),
    Case("file of 10 MiB", MEDIUM, Can.FILES, partial(same, MEDIUM)),
)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one sample."""

    sample: Sample
    server: float
    postgres: float

    def microseconds(self, seconds: Callable[["Cost"], float]) -> float:
        """Return microseconds for one request."""
        return seconds(self) / max(1, self.sample.requests) * 1e6


def postgres_seconds(instance: Instance) -> float:
    """Return the CPU seconds that PostgreSQL's processes have taken, ended ones included."""
    pid = int((instance.home / "database" / "postmaster.pid").read_text().split()[0])
    main = psutil.Process(pid)
    own = main.cpu_times()
    running = (each.cpu_times() for each in main.children())
    total = own.user + own.system + own.children_user + own.children_system
    return float(total + sum(each.user + each.system for each in running))


def connections(instance: Instance) -> int:
    """Return the connections of clients to the database, but not this process's."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


def measure(case: Case, target: Target, server: Server, instance: Instance, seconds: float) -> Cost:
    before = cpu_seconds(server), postgres_seconds(instance)
    sample = case.measure(target, seconds)
    after = cpu_seconds(server), postgres_seconds(instance)
    return Cost(sample, after[0] - before[0], after[1] - before[1])


def memory(server: Server) -> tuple[float, float]:
    """Return RSS and PSS of a server in MB."""
    full = [process.memory_full_info() for process in processes(server)]
    return sum(each.rss for each in full) / 1e6, sum(each.pss for each in full) / 1e6


def report(costs: dict[Case, Sequence[Cost]]) -> None:
    print("| request | process, µs | PostgreSQL, µs | requests |\n| --- | --- | --- | --- |")
    for case, found in costs.items():
        server, postgres = (
            median(each.microseconds(seconds) for each in found)
            for seconds in (lambda each: each.server, lambda each: each.postgres)
        )
        count = sum(each.sample.requests for each in found)
        failed = sum(each.sample.failed for each in found)
        name = f"{case.name} ({failed} FAILED)" if failed else case.name
        print(f"| {name} | {server:.0f} | {postgres:.0f} | {count:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sizing", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    with pulp() as instance:
        data = Data(instance, {case.repository: None for case in CASES})
        others = connections(instance)
        with serving(instance, *OPTIONS) as server:
            target = Target(server.content_url, data)
            idle, started = memory(server), connections(instance) - others
            costs: dict[Case, list[Cost]] = {case: [] for case in CASES}
            for _ in range(options.rounds):
                for case in CASES:
                    costs[case].append(measure(case, target, server, instance, options.seconds))
            print(f"{machine()}\n")
            report(costs)
            loaded, opened = memory(server), connections(instance) - others
    print("\n| one process | RSS MB | PSS MB | connections |\n| --- | --- | --- | --- |")
    for name, (rss, pss), count in (("started", idle, started), ("after the load", loaded, opened)):
        print(f"| {name} | {rss:.0f} | {pss:.0f} | {count} |")


if __name__ == "__main__":
    main()
