"""Measures content apps and plain servers side by side: `make bench`, see README.md."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.cases import CASES, Case, Target
from benchmarks.data import ONE, Data
from benchmarks.measure import cpu_seconds, processes
from benchmarks.report import Measured
from benchmarks.servers import CONTESTANTS, Contestant, installed, other, pulp, with_workers
from tests.support.server import Server

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "benchmarks"
MARK = "<!-- Below: written by the command. -->\n"


def main() -> None:
    arguments = parse()
    cases = [case for case in CASES if _selected(case.name, arguments.case)]
    contestants = [each for each in CONTESTANTS if _selected(each.name, arguments.server)]
    for missing in [each for each in contestants if not installed(each.program)]:
        print(f"Without {missing.name}: {missing.program} is not installed.")
        contestants.remove(missing)
    for count in arguments.workers or ():
        contestants += with_workers(count)
    if arguments.against:
        contestants.append(other(arguments.against))
    seconds, rounds = arguments.seconds, arguments.rounds
    if arguments.quick:
        cases = [case for case in cases if not case.is_long]
        seconds, rounds = 2.0, 1
    results = measure_all(cases, contestants, seconds, rounds)
    text = f"{report.machine()} {seconds:g} s, {rounds} rounds, interleaved.\n\n"
    text += f"{report.table(results)}\n"
    print(f"\n{text}")
    if arguments.save:
        more = f"{beside('on_demand', min(rounds, 2))}\n{beside('footprint', rounds)}"
        more += f"\n{beside('api', rounds)}"
        save(f"{text}\n![Requests per second](chart.svg)\n\n{more}")
        report.chart(results, [HERE / "chart.svg"])
    else:
        BUILD.mkdir(parents=True, exist_ok=True)
        (BUILD / "table.md").write_text(text)
        report.chart(results, [BUILD / "chart.svg", BUILD / "chart.png"])
        print(f"Saved in {BUILD}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 4 minutes instead of 15")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement (3)")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken (3)")
    parser.add_argument("--case", action="append", help="only cases with this in their names")
    parser.add_argument("--server", action="append", help="only servers with this in their names")
    parser.add_argument("--against", type=Path, help="another checkout, as one more server")
    parser.add_argument("--workers", type=int, action="append", help="also ours and upstream's so")
    parser.add_argument("--save", action="store_true", help="put the results into README.md")
    return parser.parse_args()


def _selected(name: str, wanted: Sequence[str] | None) -> bool:
    return not wanted or any(each.lower() in name.lower() for each in wanted)


def measure_all(
    cases: Sequence[Case], contestants: Sequence[Contestant], seconds: float, rounds: int
) -> report.Results:
    """Run all servers at once, and load one after the other."""
    results: dict[Case, dict[Contestant, list[Measured]]] = {}
    with pulp() as instance, ExitStack() as stack:
        print("Making data ...", flush=True)
        data = Data(instance, dict.fromkeys([ONE, *(case.repository for case in cases)]))
        servers = {each: stack.enter_context(each.start(instance)) for each in contestants}
        targets = {each: Target(servers[each].content_url, data) for each in contestants}
        for case in cases:
            able = [each for each in contestants if case.needs in each.can]
            results[case] = {each: [] for each in able}
            for each in able:
                case.measure(targets[each], 2.0)  # caches, connections, modules imported late
            for number in range(rounds):
                for each in able:
                    measured = measure(case, targets[each], servers[each], seconds)
                    results[case][each].append(measured)
                    print(
                        f"{case.name}, {number + 1}: {each.name} {measured.rate:.1f}/s", flush=True
                    )
    return results


def measure(case: Case, target: Target, server: Server, seconds: float) -> Measured:
    before = cpu_seconds(server)
    sample = case.measure(target, seconds)
    rss = sum(process.memory_info().rss for process in processes(server))
    return Measured(sample, cpu_seconds(server) - before, rss)


def beside(module: str, rounds: int) -> str:
    """Return what another module of this package measures, as Markdown: in a Pulp, and so a
    process, of its own."""
    print(f"{module} ...", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{module}", "--rounds", str(rounds)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def save(text: str) -> None:
    """Put `text` into README.md, in place of what has been written there by the last one."""
    readme = HERE / "README.md"
    kept = readme.read_text().partition(MARK)[0]
    readme.write_text(f"{kept}{MARK}\n{text}")
    print(f"Saved in {readme}")


if __name__ == "__main__":
    main()
