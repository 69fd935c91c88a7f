"""HTTP clients that send paths, or all bytes, unchanged; others normalize URLs."""

import select
import socket
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPResponse
from typing import IO, Any, Self
from urllib.parse import urlsplit

import httpx


class _KeptOpen:
    """The file of a connection, which a response does not close at its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """Do nothing: the connection closes its file."""


class Raw:
    """One connection to a server."""

    def __init__(self, url: str) -> None:
        """Connect to the server at `url`."""
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self.socket = socket.create_connection((parts.hostname, parts.port), 60)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def head(self, method: str, path: str, **headers: object) -> None:
        """Send the head of a request; names of headers have `_` for `-`."""
        lines = [f"{method} {path} HTTP/1.1", "Host: pulp"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_until_blocked(self, data: bytes) -> int:
        """Send as much of `data` as the server and the kernel accept before a timeout."""
        sent = 0
        while sent < len(data) and select.select([], [self.socket], [], 0.05)[1]:
            sent += self.socket.send(data[sent : sent + 65536], socket.MSG_DONTWAIT)
        return sent

    def has_response(self, seconds: float) -> bool:
        """Return whether bytes can be read within `seconds`."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def send_until_response(self, data: bytes) -> int:
        """Send `data` repeatedly until the server responds; return the number of bytes sent."""
        sent = 0
        while not self.has_response(0):
            if select.select([self.socket], [self.socket], [], 60)[1]:
                sent += self.socket.send(data, socket.MSG_DONTWAIT)
        return sent

    def send_until_closed(self, data: bytes) -> int:
        """Send `data` repeatedly until the server closes; return the number of bytes sent."""
        sent = 0
        with suppress(ConnectionError):
            while True:
                sent += self.socket.send(data)
        return sent

    def response(self, method: str | None = None) -> HTTPResponse:
        """Read the head of a response; its body can be read from the result."""
        response = HTTPResponse(self.socket, method=method)
        response.fp = _KeptOpen(self._file)  # type: ignore[assignment]
        response.begin()
        return response

    def read_line(self) -> bytes:
        return self._file.readline()

    def read_to_end(self) -> bytes:
        """Read until the server closes."""
        return self._file.read()


def get_unchanged(
    origin: str, target: str, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Send GET for `target`, path and query, to the server at `origin`; return status and body."""
    url = httpx.URL(origin)
    with closing(HTTPConnection(url.host, url.port, timeout=300)) as connection:
        connection.request("GET", target, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
