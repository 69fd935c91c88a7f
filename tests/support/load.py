"""Clients that send requests repeatedly while a server is restarted, replaced or disturbed."""

import http.client
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.instance import wait_until

TIMEOUT = 300.0
"""Seconds for one response: a slow response is not a failure."""


@dataclass(frozen=True)
class Ask:
    """A request, and whether a response to it is right, by its status and body."""

    url: str
    is_right: Callable[[int, bytes], bool]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Load:
    """Clients that send the same requests in turn, each on a new connection."""

    asks: Sequence[Ask]
    clients: int = 16
    repeats_cut: bool = False
    """Whether a client repeats a GET whose body is cut, as clients of Pulp do."""

    answered: int = 0
    cut: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for(self, count: int) -> None:
        """Wait until `count` more requests have been answered."""
        enough = self.answered + count
        wait_until(lambda: self.answered >= enough or self.failed, 600, lambda: str(self.failed))

    def start(self) -> None:
        """Start the clients, each with another request, and wait for their first responses."""
        for number in range(self.clients):
            asks = itertools.islice(itertools.cycle(self.asks), number % len(self.asks), None)
            self._threads.append(threading.Thread(target=self._run, args=[asks]))
        for thread in self._threads:
            thread.start()
        self.wait_for(self.clients)

    def stop(self) -> None:
        """Stop the clients after their current requests."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, asks: Iterator[Ask]) -> None:
        while not self._stopped.is_set():
            ask = next(asks)
            try:
                failure = _request(ask)
            except http.client.IncompleteRead as error:
                self.cut.append(repr(error))
                failure = _request(ask) if self.repeats_cut else f"{ask.url}: {error!r}"
            with self._lock:
                self.answered += 1
                if failure:
                    self.failed.append(failure)


def _request(ask: Ask) -> str | None:
    """Send a request, and return what is wrong with its response. Raises `IncompleteRead`."""
    url = urlsplit(ask.url)
    connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT)
    try:
        connection.request("GET", url.path, headers=dict(ask.headers))
        response = connection.getresponse()
        body = response.read()
    except http.client.IncompleteRead:
        raise
    except (OSError, http.client.HTTPException) as error:
        return f"{ask.url}: {error!r}"
    finally:
        connection.close()
    if ask.is_right(response.status, body):
        return None
    return f"{ask.url} {ask.headers}: {response.status} with {len(body)} bytes, {body[:2000]!r}"


@contextmanager
def load(url: str, body: bytes, clients: int = 16) -> Iterator[Load]:
    """Request `url`, whose body is `body`, until the block ends."""
    with mixed_load(
        [Ask(url, lambda status, data: (status, data) == (200, body))], clients
    ) as load:
        yield load


@contextmanager
def mixed_load(asks: Sequence[Ask], clients: int = 16, repeats_cut: bool = False) -> Iterator[Load]:
    """Send the requests until the block ends."""
    running = Load(asks, clients, repeats_cut)
    try:
        running.start()
        yield running
    finally:
        running.stop()


class SlowDownload:
    """A download of a large file that reads the first bytes, and the rest in `finish`."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._connection, self._response = self._open({})
        self._taken = self._response.read(1000)

    def _open(
        self, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._url.netloc, timeout=TIMEOUT)
        connection.request("GET", self._url.path, headers=headers)
        return connection, connection.getresponse()

    def finish(self) -> bytes:
        """Read the rest, and return the whole body."""
        try:
            return self._taken + self._response.read()
        finally:
            self._connection.close()

    def finish_or_resume(self) -> tuple[bytes, bool]:
        """As `finish`, and request the rest if the body is cut; return whether it was."""
        try:
            return self.finish(), False
        except http.client.IncompleteRead as error:
            taken = self._taken + error.partial
        condition = {"If-Range": self._response.headers["ETag"], "Range": f"bytes={len(taken)}-"}
        connection, response = self._open(condition)
        try:
            assert response.status == 206
            return taken + response.read(), True
        finally:
            connection.close()
