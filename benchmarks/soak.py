"""A long run of mixed load on one process: failures, memory, descriptors, threads, connections.

Clients compare each body; connections to the database are terminated all the time.
"""

import argparse
import itertools
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, field, fields
from functools import partial
from pathlib import Path
from statistics import linear_regression
from typing import Any

import httpx
import psutil

from benchmarks.api import Session
from benchmarks.data import GUARDED, MEDIUM, ONE, Data, Repository
from benchmarks.report import machine
from benchmarks.servers import pulp
from benchmarks.sizing import OPTIONS
from tests.support.instance import Instance, wait_until
from tests.support.pulp import API, FINAL_STATES, unique
from tests.support.remote_files import RemoteFiles
from tests.support.remote_server import Upstream, serving_upstream
from tests.support.server import Server, serving

BUILD = Path(__file__).parent.parent / "build" / "benchmarks"

# Less than the default, so that the cache is full soon, and twice as many files.
CACHE_ENTRIES = 2_000
PACKAGES = Repository("packages", "package-*.bin", 2 * CACHE_ENTRIES)

# Of the server's connections to the database.
NAME = "content-star-soak"

# Terminations of the other connections for each of the listener: with a new one the cache is empty.
LISTENER_SHARE = 30

# Bytes of a file that is fetched on demand: neither one chunk nor many.
REMOTE_SIZE = 700_001

# Seconds for which a write to the API may fail after connections were terminated under it, and
# until a deleted distribution is not served any more.
GRACE = 2.0

TIMEOUT = 60.0


@dataclass
class Sample:
    """State of the server's process at one time."""

    minutes: float
    rss: float
    """In MB."""
    descriptors: int
    threads: int
    connections: int
    """To the database."""
    is_full: bool
    """Whether the cache was full."""


class Failure(Exception):
    """A response that is not right."""


@dataclass
class Results:
    """Rounds of requests of each kind, and what failed."""

    rounds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    interrupted_writes: int = 0
    """Writes to the API that failed when their connection was terminated."""
    terminations: int = 0
    full_at: float | None = None
    """Minutes until the cache was full, since more files had been requested than it has entries."""
    samples: list[Sample] = field(default_factory=list)

    def slope(self) -> float:
        """Return the growth of memory in MB a minute, by least squares.

        Of the samples with a full cache in the second half of the run.
        """
        start = self.samples[-1].minutes / 2
        late = [each for each in self.samples if each.is_full and each.minutes >= start]
        if len(late) < 3:
            return float("nan")
        return linear_regression([s.minutes for s in late], [s.rss for s in late]).slope


Client = httpx.Client
Request = Callable[["Soak", Client], None]


class Soak:
    """The load on a server, from `running` to its end."""

    def __init__(
        self, instance: Instance, server: Server, data: Data, upstream: Upstream, interval: float
    ) -> None:
        self.server = server
        self.results = Results()
        self._instance = instance
        self._upstream = upstream
        self._interval = interval
        self._authorization = data.authorization
        repositories = (ONE, MEDIUM, GUARDED, PACKAGES)
        root = data.tree / "pulp/content"
        self._bodies = {each.name: (root / each.path()).read_bytes() for each in repositories}
        self._numbers = itertools.count()
        self._first_number = 0
        self._is_full = False
        self._listing: bytes | None = None
        self._publication = _publication_of(ONE)
        self._began = time.monotonic()
        self._terminated_at = float("-inf")
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    # Requests

    def small(self, client: Client) -> None:
        """GET the same small file."""
        self._check(client.get(ONE.path()), ONE)

    def package(self, client: Client) -> None:
        """GET one of many files, the least recently requested, three times.

        Its response is cached by the first, and its request head by the third.
        """
        number = next(self._numbers)
        for _ in range(3):
            self._check(client.get(PACKAGES.path(number % PACKAGES.count)), PACKAGES)
        self._is_full = number >= self._first_number + CACHE_ENTRIES
        if self._is_full and self.results.full_at is None:
            self.results.full_at = self.minutes

    def large(self, client: Client) -> None:
        """GET a large file."""
        self._check(client.get(MEDIUM.path()), MEDIUM)

    def range(self, client: Client) -> None:
        """GET a range of a large file."""
        start, stop = sorted(random.sample(range(MEDIUM.size), 2))
        response = client.get(MEDIUM.path(), headers={"Range": f"bytes={start}-{stop}"})
        _require(response, 206)
        if response.content != self._bodies[MEDIUM.name][start : stop + 1]:
            raise Failure(f"other bytes in {start}-{stop}")

    def listing(self, client: Client) -> None:
        """GET the list of links of a large directory."""
        response = client.get(PACKAGES.directory())
        _require(response, 200)
        if self._listing is None:
            self._listing = response.content
        if response.content != self._listing or len(self._listing) < 20 * PACKAGES.count:
            raise Failure(f"a listing of {len(response.content)} bytes")

    def guarded(self, client: Client) -> None:
        """GET a guarded file with and without a password."""
        headers = {"Authorization": self._authorization}
        self._check(client.get(GUARDED.path(), headers=headers), GUARDED)
        _require(client.get(GUARDED.path()), 401, 403)

    def abort(self, client: Client) -> None:
        """Close the connection after a part of a large file."""
        with client.stream("GET", MEDIUM.path()) as response:
            _require(response, 200)
            next(response.iter_raw(random.randrange(1, 200_000)))

    def on_demand(self, client: Client) -> None:
        """GET a new file of a remote: by a client that leaves, one that reads it, and again."""
        files = RemoteFiles(self._upstream)
        file = files.make(REMOTE_SIZE)
        try:
            with client.stream("GET", file.path) as response:
                next(response.iter_raw(1000))
            for _ in range(2):
                response = client.get(file.path)
                _require(response, 200)
                if response.content != file.data:
                    raise Failure("other bytes of a remote's file")
            file.wait_until_saved()
        finally:
            files.cleanup()
            self._upstream.files.pop(file.sources[0])
            self._upstream.seen.clear()

    def write(self, client: Client) -> None:
        """Create a distribution by the API, GET its file, delete it, and GET 404."""
        began = time.monotonic()
        name = unique("soak")
        content = f"{self.server.content_url}{name}/{ONE.file}"
        fields = {"name": name, "base_path": name, "publication": self._publication}
        try:
            _require(client.get(f"{API}tasks/?limit=20"), 200)
            made = self._task(client, client.post(f"{API}distributions/file/file/", json=fields))
            self._check(client.get(content), ONE)
            self._task(client, client.delete(made["created_resources"][0]))
        except Failure:
            if max(began, time.monotonic() - GRACE) > self._terminated_at:
                raise
            self.results.interrupted_writes += 1
            return
        deadline = time.monotonic() + GRACE
        while (status := client.get(content).status_code) != 404:
            if time.monotonic() > deadline:
                raise Failure(f"{status} for a file of a distribution that was deleted")

    def _task(self, client: Client, response: httpx.Response) -> dict[str, Any]:
        """Wait for the end of a task, and return it."""
        _require(response, 202)
        href, deadline = response.json()["task"], time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            response = client.get(href)
            _require(response, 200)
            task: dict[str, Any] = response.json()
            if task["state"] in FINAL_STATES:
                break
            time.sleep(0.05)
        if task["state"] != "completed":
            raise Failure(f"a task is {task['state']}: {task['error']}")
        return task

    def _check(self, response: httpx.Response, repository: Repository) -> None:
        _require(response, 200)
        if response.content != self._bodies[repository.name]:
            raise Failure(f"other bytes of {repository.name}: {len(response.content)}")

    # Threads

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests during the block."""
        content = partial(Client, base_url=self.server.content_url, trust_env=False)
        api = partial(Session(self._instance.username).client, self.server.url)
        threads = [self._thread(self._terminate_always), self._thread(self._sample_always)]
        for request, pause, count in LOAD:
            make = api if request is Soak.write else content
            for _ in range(count):
                threads.append(self._thread(self._request_always, request, pause, make))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _thread(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        return threading.Thread(target=self._closing_connection, args=[target, *arguments])

    def _closing_connection(self, target: Callable[..., None], *arguments: object) -> None:
        from django.db import connection

        with closing(connection):
            target(*arguments)

    def _request_always(self, request: Request, pause: float, make: Callable[[], Client]) -> None:
        name = request.__name__
        with make() as client:
            client.timeout = httpx.Timeout(TIMEOUT)
            while not self._stopped.wait(pause):
                try:
                    request(self, client)
                except Exception as error:
                    self._fail(f"{name}: {type(error).__name__}: {error}")
                with self._lock:
                    self.results.rounds[name] += 1

    def _fail(self, text: str) -> None:
        self.results.failures.append(f"{self.minutes:.1f} min, {text}")
        print(self.results.failures[-1], file=sys.stderr, flush=True)

    def _terminate_always(self) -> None:
        from pulpcore.content_star.cache.invalidation import listener
        from pulpcore.content_star.remote import lock

        while not self._stopped.wait(self._interval):
            self._terminated_at = time.monotonic()
            self.results.terminations += 1
            names = [NAME, lock.APPLICATION_NAME]
            if self.results.terminations % LISTENER_SHARE == 0:
                names.append(listener.APPLICATION_NAME)
                self._first_number = next(self._numbers)
            _terminate_connections(names)

    def _sample_always(self) -> None:
        process = psutil.Process(self.server.process.pid)
        while not self._stopped.wait(1):
            self.results.samples.append(self.sample(process))

    def sample(self, process: psutil.Process) -> Sample:
        return Sample(
            self.minutes,
            process.memory_info().rss / 1e6,
            process.num_fds(),
            process.num_threads(),
            _connections(),
            self._is_full,
        )

    @property
    def minutes(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self._began) / 60


# Requests, seconds between two of a client, and clients.
LOAD: Sequence[tuple[Request, float, int]] = (
    (Soak.small, 0.02, 1),
    (Soak.package, 0.0, 2),
    (Soak.large, 0.2, 1),
    (Soak.range, 0.05, 1),
    (Soak.listing, 0.5, 1),
    (Soak.guarded, 0.05, 1),
    (Soak.abort, 0.1, 1),
    (Soak.on_demand, 0.2, 2),
    (Soak.write, 0.2, 1),
)


def _require(response: httpx.Response, *statuses: int) -> None:
    if response.status_code not in statuses:
        text = response.read()[:300].decode(errors="replace")
        raise Failure(f"{response.request.method} {response.url}: {response.status_code} {text}")


def _publication_of(repository: Repository) -> str:
    from pulp_file.app.models import FilePublication

    publication = FilePublication.objects.get(repository_version__repository__name=repository.name)
    return f"{API}publications/file/file/{publication.pk}/"


def _terminate_connections(names: list[str]) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = ANY(%s)",
            [names],
        )


def _connections() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [NAME])
        return int(cursor.fetchone()[0])


def check_leftovers(instance: Instance, results: Results) -> None:
    """Note temporary files that are there although no download is."""
    folder = Path(instance.state.working_directory)

    def files() -> list[Path]:
        return list(folder.glob("content-star-*"))

    try:
        wait_until(lambda: not files(), TIMEOUT)
    except AssertionError:
        results.failures.append(f"temporary files are left: {files()}")


def report(results: Results) -> str:
    """Return tables of requests and samples, as Markdown."""
    cells = " | ".join(f"{count:,}" for count in results.rounds.values())
    lines = [
        f"| | {' | '.join(results.rounds)} |",
        f"| --- |{' --- |' * len(results.rounds)}",
        f"| rounds | {cells} |",
        "",
        f"{len(results.failures)} failed. Connections to the database were terminated"
        f" {results.terminations} times, every {LISTENER_SHARE}th time that of the cache's listener"
        f" too; {results.interrupted_writes} writes to the API failed with theirs.",
        "",
        "| minutes | RSS, MB | descriptors | threads | connections | full cache |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    step = max(1, len(results.samples) // 20)
    shown = [*results.samples[::step], results.samples[-1]]
    lines += [f"| {' | '.join(f'{each:.4g}' for each in astuple(sample))} |" for sample in shown]
    full = "never" if results.full_at is None else f"after {results.full_at:.1f} minutes"
    lines += [
        "",
        f"The cache was full {full}. In the second half of the run, while it was full, memory grew"
        f" by {results.slope():+.2f} MB a minute.",
    ]
    return "\n".join(lines)


def draw(results: Results, path: Path) -> None:
    """Draw the samples over time."""
    from matplotlib.figure import Figure

    names = [each.name for each in fields(Sample)][1:-1]
    figure = Figure(figsize=(9, 8), layout="constrained")
    minutes = [sample.minutes for sample in results.samples]
    for name, axes in zip(names, figure.subplots(len(names), sharex=True), strict=True):
        axes.plot(minutes, [getattr(sample, name) for sample in results.samples])
        axes.set_ylabel("RSS, MB" if name == "rss" else name)
        axes.set_ylim(bottom=0)
        if results.full_at is not None:
            axes.axvline(results.full_at, color="gray", linestyle=":")
    axes.set_xlabel("minutes; dotted: the cache is full")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def soak(minutes: float, interval: float) -> Results:
    """Run the load for some minutes, with connections terminated every `interval` seconds."""
    with pulp() as instance, serving_upstream() as upstream:
        print("Making data ...", flush=True)
        data = Data(instance, (ONE, MEDIUM, GUARDED, PACKAGES))
        environ = {"PGAPPNAME": NAME, "PULP_CONTENT_STAR_CACHE_ENTRIES": str(CACHE_ENTRIES)}
        with serving(instance, *OPTIONS, **environ) as server:
            running = Soak(instance, server, data, upstream, interval)
            with running.running():
                ended = server.process.poll
                with suppress(KeyboardInterrupt):  # reported as far as it went
                    while ended() is None and running.minutes < minutes:
                        time.sleep(1)
            check_leftovers(instance, running.results)
            if ended() is not None:
                running.results.failures.append(f"the server ended: {server.said()[-3000:]}")
            return running.results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of load (10)")
    parser.add_argument(
        "--terminate",
        type=float,
        default=10,
        help="seconds between terminations of the connections to the database (10)",
    )
    parser.add_argument(
        "--chart", type=Path, default=BUILD / "soak.svg", help="file that the samples are drawn in"
    )
    arguments = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    results = soak(arguments.minutes, arguments.terminate)
    draw(results, arguments.chart)
    print(f"{machine()}\n\n{report(results)}\n\nDrawn in {arguments.chart}")
    for failure in results.failures[:20]:
        print(failure)
    sys.exit(bool(results.failures))


if __name__ == "__main__":
    main()
