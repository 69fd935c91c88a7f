"""Reports of a run: text, JSON, JUnit and HTML."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from pulpcore.content_star import __version__
from pulpcore.content_star.cli.compare.comparison import reasons
from pulpcore.content_star.cli.compare.results import Latencies, Results
from pulpcore.content_star.cli.folder import human_size, printable

_UNPRINTABLE_IN_XML = dict.fromkeys({*range(32)} - {9, 10, 13}, "\N{REPLACEMENT CHARACTER}")


@dataclass
class Report:
    """Results of a run, and whether it was complete."""

    old: str
    new: str
    results: Results
    skipped: Counter[str]
    seconds: float
    incomplete: str = ""
    """Why the run ended before all was compared; empty if it did not."""
    time_is_up: bool = False
    """Whether it ended because of `--time`."""

    @property
    def verdict(self) -> str:
        """Return one sentence: alike, or the number of differences."""
        results = self.results
        if not results.compared:
            return "Nothing was compared."
        if not results.faults:
            requests = _count(results.compared, "request")
            return f"Alike: {requests}, no difference that is not intended."
        kinds = _count(len(results.faults), "kind")
        return f"Different: {_count(results.fault_count, 'difference')} of {kinds}."

    def latencies(self) -> Iterator[tuple[str, dict[str, dict[str, float | None]]]]:
        """Yield p50 and p99 in milliseconds of both servers, by kind of request."""
        for kind, by_server in sorted(self.results.latencies.items()):
            yield kind, {server: _percentiles(values) for server, values in by_server.items()}

    def as_json(self) -> str:
        """Return the report for programs."""
        results = self.results
        known = {
            name: {**_group(group), "reason": reason}
            for (name, group), reason in zip(
                results.known.items(), reasons(results.known).values(), strict=True
            )
        }
        document: dict[str, Any] = {
            "version": __version__,
            "old": self.old,
            "new": self.new,
            "alike": bool(results.compared) and not results.faults,
            "complete": not self.incomplete and not self.time_is_up,
            "incomplete": self.incomplete,
            "seconds": round(self.seconds, 3),
            "requests": dict(results.requests),
            "identical": results.alike,
            "changed": results.changed,
            "refused_by_both": results.refused,
            "bytes": results.bytes,
            "differences": {title: _group(group) for title, group in results.faults.items()},
            "intended": known,
            "skipped": dict(self.skipped),
            "latency_ms": dict(self.latencies()),
        }
        return json.dumps(document, indent=2)

    def as_text(self) -> str:
        """Return the report for people."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        results = self.results
        yield f"old  {self.old}"
        yield f"new  {self.new}"
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(results.requests.items()))
        yield f"{_count(results.compared, 'request')} to each ({counts or 'none'}), " + (
            f"{human_size(results.bytes)} in {self.seconds:.0f} s"
        )
        for title, group in _by_count(results.faults):
            yield ""
            yield f"DIFFERENT  {title}: {group.count}"
            yield f"  example  {group.example.method} {printable(group.example.target)}"
            yield f"  old      {printable(group.example.old)}"
            yield f"  new      {printable(group.example.new)}"
            yield from (f"  $ {printable(command)}" for command in group.example.curl)
        if results.known:
            yield ""
            yield "Intended differences (docs/differences.md):"
            why = reasons(results.known)
            for name, group in _by_count(results.known):
                yield f"  {name}: {group.count}. {why[name]}"
        yield from self._latency_lines()
        yield from self._notes()
        yield ""
        yield self.verdict

    def _latency_lines(self) -> Iterator[str]:
        rows = list(self.latencies())
        if not rows:
            return
        yield ""
        yield f"{'ms':<12}{'old p50':>10}{'new p50':>10}{'old p99':>10}{'new p99':>10}"
        for kind, values in rows:
            cells = [values[server][share] for share in ("p50", "p99") for server in ("old", "new")]
            yield f"{kind:<12}" + "".join(f"{cell or 0:>10.1f}" for cell in cells)

    def _notes(self) -> Iterator[str]:
        notes = [f"Not asked: {count} {reason}." for reason, count in sorted(self.skipped.items())]
        if self.results.refused:
            notes.append(
                f"Both refused {_count(self.results.refused, 'request')} with 401 or 403; "
                "give credentials to compare what a guard protects."
            )
        if self.results.changed:
            notes.append(
                f"{_count(self.results.changed, 'request')} repeated, because the content changed."
            )
        if self.time_is_up:
            notes.append("The time is up (--time), so not all was compared.")
        if self.incomplete:
            notes.append(f"Incomplete: {self.incomplete}")
        if notes:
            yield ""
            yield from notes

    def as_junit(self) -> str:
        """Return the report as JUnit's XML: a test case for each kind of request and difference."""
        results = self.results
        suite = ElementTree.Element(
            "testsuite",
            name="pulp-star compare",
            tests=str(len(results.requests) + len(results.faults) + bool(self.incomplete)),
            failures=str(len(results.faults)),
            errors=str(int(bool(self.incomplete))),
            time=f"{self.seconds:.3f}",
        )
        for kind, count in sorted(results.requests.items()):
            ElementTree.SubElement(suite, "testcase", classname="compared", name=f"{count} {kind}")
        for title, group in _by_count(results.faults):
            case = ElementTree.SubElement(suite, "testcase", classname="differences", name=title)
            example = group.example
            message = f"{group.count} times; {example.old} -> {example.new}"
            failure = ElementTree.SubElement(case, "failure", message=_xml(message))
            failure.text = _xml("\n".join([f"{example.method} {example.target}", *example.curl]))
        if self.incomplete:
            case = ElementTree.SubElement(suite, "testcase", classname="run", name="complete")
            ElementTree.SubElement(case, "error", message=_xml(self.incomplete))
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

    def as_html(self) -> str:
        """Return the report as a page without scripts and references."""
        from jinja2 import Environment, PackageLoader

        environment = Environment(
            loader=PackageLoader("pulpcore.content_star.cli.compare", "."),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        page = environment.get_template("report.html")
        return page.render(
            report=self,
            results=self.results,
            faults=_by_count(self.results.faults),
            known=_by_count(self.results.known),
            reasons=reasons(self.results.known),
            latencies=list(self.latencies()),
            notes=list(self._notes()),
            transferred=human_size(self.results.bytes),
        )


def _percentiles(latencies: Latencies) -> dict[str, float | None]:
    shares = {"p50": 0.5, "p99": 0.99}
    found = {name: latencies.percentile(share) for name, share in shares.items()}
    return {name: value and round(value * 1000, 2) for name, value in found.items()}


def _group(group: Any) -> dict[str, Any]:
    example = group.example
    return {
        "count": group.count,
        "example": {
            "method": example.method,
            "target": example.target,
            "old": example.old,
            "new": example.new,
            "curl": example.curl,
        },
    }


def _by_count(groups: Any) -> list[tuple[str, Any]]:
    return sorted(groups.items(), key=lambda item: (-item[1].count, item[0]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _xml(text: str) -> str:
    """Replace control characters, which XML cannot have."""
    return text.translate(_UNPRINTABLE_IN_XML).encode("utf-8", "replace").decode()
