"""Clients that request a file repeatedly while a server is restarted or disturbed."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.instance import wait_until

TIMEOUT = 300.0
"""Seconds for one response: a slow response is not a failure."""


@dataclass
class Load:
    """Requests by a number of clients, each on a new connection."""

    url: str
    body: bytes
    """The expected body of each response."""

    clients: int = 16
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for(self, count: int) -> None:
        """Wait until `count` more requests have been answered."""
        enough = self.answered + count
        wait_until(lambda: self.answered >= enough or self.failed, 600, lambda: str(self.failed))

    def start(self) -> None:
        """Start the clients, and wait for their first responses."""
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        self.wait_for(self.clients)

    def stop(self) -> None:
        """Stop the clients after their current requests."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            failure = self._request()
            with self._lock:
                self.answered += 1
                if failure:
                    self.failed.append(failure)

    def _request(self) -> str | None:
        url = urlsplit(self.url)
        connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT)
        try:
            connection.request("GET", url.path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        right = response.status == 200 and body == self.body
        return None if right else f"{response.status} with {len(body)} bytes"


@contextmanager
def load(url: str, body: bytes, clients: int = 16) -> Iterator[Load]:
    """Request `url`, whose body is `body`, until the block ends."""
    running = Load(url, body, clients)
    try:
        running.start()
        yield running
    finally:
        running.stop()


class SlowDownload:
    """A download of a large file that reads the first bytes, and the rest in `finish`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
        self._connection.request("GET", parts.path)
        self._response = self._connection.getresponse()
        self._taken = self._response.read(1000)

    def finish(self) -> bytes:
        """Read the rest, and return the whole body."""
        try:
            return self._taken + self._response.read()
        finally:
            self._connection.close()
