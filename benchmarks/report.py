"""Tables and a chart of what was measured."""

import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.cases import Case, Sample
from benchmarks.servers import OURS, Contestant, installed


@dataclass
class Measured:
    """A sample of a server, and what it took the server's processes."""

    sample: Sample
    cpu_seconds: float
    rss: int
    """Bytes of memory that are resident, afterwards."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.sample.requests / self.sample.seconds


Results = Mapping[Case, Mapping[Contestant, Sequence[Measured]]]

_COLUMNS: dict[str, Callable[[Measured], float | None]] = {
    "req/s": lambda each: each.rate,
    "p50 ms": lambda each: each.sample.p50,
    "p99 ms": lambda each: each.sample.p99,
    "first byte ms": lambda each: each.sample.first_byte,
    "MB/s": lambda each: each.sample.bytes / each.sample.seconds / 1e6,
    "CPU s/GB": lambda each: (
        each.cpu_seconds / each.sample.bytes * 1e9 if each.sample.bytes else None
    ),
    "RSS MB": lambda each: each.rss / 1e6,
}


def table(results: Results) -> str:
    """Figures of all cases, medians of the rounds, as Markdown."""
    lines = [
        f"| case | server | ours is | {' | '.join(_COLUMNS)} |",
        "| --- | --- | --- |" + " --- |" * len(_COLUMNS),
    ]
    for case, servers in results.items():
        for contestant, measured in servers.items():
            cells = [_cell(column, measured) for column in _COLUMNS.values()]
            ratio = _ratio(servers, contestant)
            failed = sum(each.sample.failed for each in measured)
            name = f"{contestant.name} ({failed} FAILED)" if failed else contestant.name
            lines.append(f"| {case.name} | {name} | {ratio} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(column: Callable[[Measured], float | None], measured: Sequence[Measured]) -> str:
    values = [value for each in measured if (value := column(each)) is not None]
    return _short(median(values)) if values else ""


def _short(value: float) -> str:
    """Three digits of it, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(servers: Mapping[Contestant, Sequence[Measured]], contestant: Contestant) -> str:
    """Return how many times as fast ours is, in the same rounds."""
    if contestant == OURS or OURS not in servers:
        return ""
    pairs = zip(servers[OURS], servers[contestant], strict=True)
    ratios = [ours.rate / theirs.rate for ours, theirs in pairs if theirs.rate]
    return f"{_short(median(ratios))}x" if ratios else ""


def machine() -> str:
    """Return machine and versions of the measurement, as Markdown."""
    packages = ("pulp-content-star", "pulpcore", "uvicorn", "starlette", "uvloop", "httptools")
    known = [f"{name} {version(name)}" for name in packages]
    known += [
        _said(*command) for command in (("nginx", "-v"), ("redis-server", "-v"), ("wrk", "-v"))
    ]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({_processor()}), "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{', '.join(filter(None, known))}. Load average at the end: {load}."
    )


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


def _said(*command: str) -> str:
    """Return the name and version of a program."""
    if not installed(command[0]):
        return ""
    answer = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+[.\d]*", answer.stdout + answer.stderr)
    return f"{command[0]} {found[0]}" if found else command[0]


def chart(results: Results, paths: Iterable[Path]) -> None:
    """Draw requests per second of all servers in all cases."""
    from matplotlib.figure import Figure

    contestants = list(dict.fromkeys(each for servers in results.values() for each in servers))
    figure = Figure(figsize=(10, 1 + 0.2 * sum(map(len, results.values()))), layout="constrained")
    axes = figure.subplots()
    ticks, position = [], 0.0
    for servers in results.values():
        ticks.append(position + (len(servers) - 1) / 2)
        for contestant, measured in servers.items():
            rate = median(each.rate for each in measured)
            axes.barh(position, rate, color=f"C{contestants.index(contestant)}")
            axes.text(rate, position, f" {_short(rate)}", va="center", fontsize=7)
            position += 1
        position += 1
    axes.set_yticks(ticks, [case.name for case in results])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("requests per second, one worker process")
    for number, contestant in enumerate(contestants):
        axes.barh(0, 0, color=f"C{number}", label=contestant.name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
