"""The table of docs/plugins.md, generated from the results of a complete run of these tests."""

import importlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.plugins_real.plugin import Plugin

DOCUMENT = Path(__file__).parents[2] / "docs" / "plugins.md"
BEGIN, END = "<!-- made by `make test-plugins` -->", "<!-- end -->"


@dataclass
class Outcome:
    """The results of a run for one plugin."""

    plugin: Plugin
    passed: Counter[str] = field(default_factory=Counter)
    """Tests that passed: `parity`, one for each request, and `client`."""

    served: str = "not known"
    """How the running process reports that it serves the plugin, and why."""

    broken: dict[str, str] = field(default_factory=dict)
    """Tests that are expected to fail, and why."""

    def add(self, name: str, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        if hasattr(report, "wasxfail"):
            self.broken[name] = report.wasxfail.removeprefix("reason: ")
        elif report.passed:
            self.passed["parity" if name.startswith("test_parity") else "client"] += 1

    def row(self) -> str:
        cells = (self.plugin.name, version(self.plugin.name), self.served)
        return "| " + " | ".join((*cells, self.plugin.client, self.result())) + " |"

    def result(self) -> str:
        compared, used = self.passed["parity"], self.passed["client"]
        found = f"{compared} requests alike, {used} tests of the client"
        known = "; ".join(f"fails: {reason}" for reason in dict.fromkeys(self.broken.values()))
        return ". ".join(text for text in (found, self.plugin.note, known) if text)


class Table:
    """Collects the outcomes of a run, as a pytest plugin."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.incomplete: list[str] = []
        """The reason why this run cannot generate the table."""

    def pytest_collection_modifyitems(self, items: Iterable[pytest.Item]) -> None:
        for item in items:
            if plugin := getattr(getattr(item, "module", None), "PLUGIN", None):
                self.outcomes.setdefault(plugin.name, Outcome(plugin))
                item.user_properties.append(("plugin", plugin.name))
        missing = {name for name in plugins() if name not in self.outcomes}
        self.incomplete += [f"{name} was not tested" for name in sorted(missing)]

    def load_reports(self, content_url: str) -> None:
        """Read from a process how it serves each plugin, as operators do."""
        accept = {"Accept": "application/json"}
        status = httpx.get(f"{content_url}readyz", headers=accept).json()
        reported = {plugin["package"].replace("_", "-"): plugin for plugin in status["plugins"]}
        for name, outcome in self.outcomes.items():
            plugin = reported[name]
            outcome.served = f"{plugin['served']}: {plugin['why']}"

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        self.incomplete.append("tests were left out")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = dict(report.user_properties).get("plugin")
        if name is None:
            return
        if report.failed or (report.skipped and not hasattr(report, "wasxfail")):
            self.incomplete.append(f"{report.nodeid}: {report.outcome}")
        self.outcomes[str(name)].add(report.nodeid.rpartition("::")[2], report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the table; a run that changes it fails, so that the change is reviewed."""
        if self.incomplete or session.config.option.collectonly:
            return
        if (new := self.document()) != DOCUMENT.read_text():
            DOCUMENT.write_text(new)
            self.incomplete.append(f"{DOCUMENT.name} was generated again: review it, and commit it")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for reason in self.incomplete[:3]:
            terminalreporter.write_line(f"the table of plugins: {reason}")

    def document(self) -> str:
        """Return the documentation page with the table of this run."""
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        head = "| plugin | version | served | client | result |\n| --- | --- | --- | --- | --- |"
        rows = [outcome.row() for _, outcome in sorted(self.outcomes.items())]
        return "\n".join([before + BEGIN, "", head, *rows, "", END + after])


def plugins() -> dict[str, Plugin]:
    """Return all plugins that have a module of tests, by their names on PyPI."""
    modules = sorted(Path(__file__).parent.glob("test_*.py"))
    found = [importlib.import_module(f"tests.plugins_real.{path.stem}") for path in modules]
    return {module.PLUGIN.name: module.PLUGIN for module in found}
