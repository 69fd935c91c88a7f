"""Runs of `pulp-star compare` in the process of the tests."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from pulpcore.content_star.cli.compare.command import command


class Run(NamedTuple):
    """Exit code, output and JSON report of a run."""

    code: int
    out: str
    report: dict[str, Any]

    @property
    def titles(self) -> list[str]:
        return list(self.report.get("differences", ()))


def run_compare(report: Path, old: str, new: str, *arguments: str) -> Run:
    """Compare two servers at any rate, with a JSON report in a file."""
    report.unlink(missing_ok=True)
    options = ("--rate", "0", "--json", str(report))
    result = CliRunner().invoke(command, [old, new, *options, *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(
        result.exit_code,
        result.output,
        json.loads(report.read_text()) if report.exists() else {},
    )
