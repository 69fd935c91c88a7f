"""Counts, latencies and groups of differences of a run, in bounded memory; they can be saved."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pulpcore.content_star.cli.compare.comparison import Finding
from pulpcore.content_star.cli.compare.errors import CannotCompare
from pulpcore.content_star.cli.compare.exchange import Exchange
from pulpcore.content_star.cli.compare.shell import curl, masked
from pulpcore.content_star.differences import DIFFERENCES

MAX_GROUPS = 200
"""Groups of faults that keep an example; further ones are counted together."""

_BUCKET = math.log(1.05)
"""Latencies are kept in buckets of 5 %."""


@dataclass
class Latencies:
    """A histogram of seconds, with an error of 5 %."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.buckets[round(math.log(max(seconds, 1e-6)) / _BUCKET)] += 1

    def percentile(self, share: float) -> float | None:
        """Return the duration in seconds that a share of the requests did not exceed."""
        rank = math.ceil(share * self.buckets.total())
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return math.exp(bucket * _BUCKET)
        return None


@dataclass
class Example:
    """One exchange that shows a group's difference."""

    method: str
    target: str
    old: str
    new: str
    curl: list[str]
    """Commands for the old and for the new server, without credentials."""


@dataclass
class Group:
    """Differences of one kind."""

    title: str
    count: int
    example: Example


@dataclass
class Results:
    """All that is known of a run."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests that both servers got, by kind."""
    alike: int = 0
    changed: int = 0
    """Exchanges that were repeated because the content changed in between."""
    refused: int = 0
    """Exchanges in which both servers answered 401 or 403."""
    bytes: int = 0
    """Of bodies, from both servers."""
    faults: dict[str, Group] = field(default_factory=dict)
    known: dict[str, Group] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of paths that were not requested, by reason."""
    latencies: dict[str, dict[str, Latencies]] = field(default_factory=dict)
    """By kind of request, then `old` and `new`."""

    @property
    def compared(self) -> int:
        """Number of exchanges."""
        return self.requests.total()

    @property
    def fault_count(self) -> int:
        """Number of faults."""
        return sum(group.count for group in self.faults.values())

    def record(
        self, exchange: Exchange, findings: Iterable[Finding], urls: tuple[str, str]
    ) -> None:
        """Count an exchange and what differs in it."""
        kind = exchange.request.kind.value
        self.requests[kind] += 1
        self.bytes += exchange.old.size + exchange.new.size
        by_server = self.latencies.setdefault(kind, {"old": Latencies(), "new": Latencies()})
        by_server["old"].add(exchange.old.seconds)
        by_server["new"].add(exchange.new.seconds)
        if exchange.old.status == exchange.new.status and exchange.old.status in (401, 403):
            self.refused += 1
        findings = list(findings)
        self.alike += not findings
        for finding in findings:
            self._add(exchange, finding, urls)

    def _add(self, exchange: Exchange, finding: Finding, urls: tuple[str, str]) -> None:
        if finding.difference:
            groups, title = self.known, finding.difference
        else:
            groups, title = self.faults, _title(exchange, finding)
            if title not in groups and len(groups) >= MAX_GROUPS:
                title = "further kinds of differences"
        if title in groups:
            groups[title].count += 1
            return
        request = exchange.request
        commands = [curl(request, finding.facet, url) for url in urls]
        example = Example(
            request.method, masked(request.target), finding.old, finding.new, commands
        )
        groups[title] = Group(title, 1, example)

    def save(self) -> dict[str, Any]:
        """Return all as a value for JSON."""
        return {
            **vars(self),
            "faults": {title: asdict(group) for title, group in self.faults.items()},
            "known": {title: asdict(group) for title, group in self.known.items()},
            "latencies": {
                kind: {server: latencies.buckets for server, latencies in by_server.items()}
                for kind, by_server in self.latencies.items()
            },
        }

    @classmethod
    def load(cls, saved: dict[str, Any]) -> Self:
        """Return the results that were saved."""
        results = cls(**saved)
        results.requests = Counter(saved["requests"])
        results.skipped = Counter(saved["skipped"])
        results.faults = {title: _group(group) for title, group in saved["faults"].items()}
        results.known = {title: _group(group) for title, group in saved["known"].items()}
        results.latencies = {
            kind: {server: _latencies(value) for server, value in by_server.items()}
            for kind, by_server in saved["latencies"].items()
        }
        return results


def _title(exchange: Exchange, finding: Finding) -> str:
    """Name a kind of difference: the part, the kind of request, and the statuses."""
    kind = exchange.request.kind.value
    if finding.facet == "status":
        return f"status {finding.old} -> {finding.new} for {kind}"
    if finding.facet == "transfer":
        side = (
            "both"
            if exchange.old.broken and exchange.new.broken
            else ("old" if exchange.old.broken else "new")
        )
        return f"incomplete response ({side}) for {kind}"
    if finding.facet == "body":
        what = "kind of error body" if exchange.old.is_error else "body"
    elif finding.facet == "listing":
        what = "entries of a listing"
    else:
        what = f"header {finding.facet}"
    return f"{what} of {exchange.old.status} for {kind}"


def _group(saved: dict[str, Any]) -> Group:
    return Group(saved["title"], saved["count"], Example(**saved["example"]))


def _latencies(saved: dict[str, Any]) -> Latencies:
    return Latencies(Counter({int(bucket): count for bucket, count in saved.items()}))


class Progress:
    """Position in the sequence of items, with results so far, in a file that a run continues from.

    Items are numbered. All below `position` are done, and those in `done` beside.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.position = 0
        self.done: set[int] = set()
        self.key = ""
        """The item before `position`, by which a source that has changed is recognized."""
        self.complete = False
        self.results = Results()
        self._keys: dict[int, str] = {}

    def load(self) -> bool:
        """Read the file; return whether there is one. Raises ValueError if it is another run's."""
        if self.path is None or not self.path.exists():
            return False
        saved = json.loads(self.path.read_text())
        if not isinstance(saved, dict) or "fingerprint" not in saved:
            raise ValueError("it is not a file of pulp-star compare")
        if saved["fingerprint"] != self.fingerprint:
            raise ValueError("it belongs to a run with other servers, sources or options")
        self.position, self.key = saved["position"], saved["key"]
        self.done, self.complete = set(saved["done"]), saved["complete"]
        numbers = [self.position, *self.done]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("its position is not a number")
        self.results = Results.load(saved["results"])
        if not self.results.known.keys() <= DIFFERENCES.keys():
            raise ValueError("another version of pulp-star has written it")
        return True

    def is_done(self, number: int) -> bool:
        """Return whether an item has been compared."""
        return number < self.position or number in self.done

    def finish(self, number: int, key: str) -> None:
        """Note that an item has been compared."""
        self.done.add(number)
        self._keys[number] = key
        while self.position in self.done:
            self.done.remove(self.position)
            self.key = self._keys.pop(self.position, "")
            self.position += 1

    def save(self) -> None:
        """Write the file, atomically and readable for its owner alone. Raises CannotCompare."""
        if self.path is None:
            return
        saved = {
            "fingerprint": self.fingerprint,
            "position": self.position,
            "key": self.key,
            "done": sorted(self.done),
            "complete": self.complete,
            "results": self.results.save(),
        }
        new = self.path.with_name(self.path.name + ".new")
        try:
            new.touch(mode=0o600)
            new.write_text(json.dumps(saved))
            new.replace(self.path)
        except OSError as error:
            raise CannotCompare(f"{self.path} cannot be written: {error.strerror}") from error
