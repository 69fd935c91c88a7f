"""A server whose responses are bytes that tests write themselves, right or wrong."""

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

ROOT = "/pulp/content/"


def raw_response(body: bytes = b"x", status: str = "200 OK", **headers: str) -> bytes:
    """Return a response; underscores in names of headers stand for dashes."""
    fields = {"content_length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    head = f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n"
    return head.encode("latin-1") + body


def raw_json(value: object) -> bytes:
    """Return a response with a value in JSON."""
    return raw_response(json.dumps(value).encode(), content_type="application/json")


class Endless(bytes):
    """A response whose body goes on until the client disconnects."""


LISTING = raw_response(b"<title>Index of /</title>", content_type="text/html")
MISSING = raw_response(b"404", "404 Not Found", content_type="text/plain")


@contextmanager
def raw_server(responses: Mapping[str, bytes]) -> Iterator[str]:
    """Send these responses by path, by default a listing at the root; yield the origin."""

    closing = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().split()
            if not line:  # it was only tried whether the server can be reached
                return
            while self.rfile.readline().strip():
                pass
            path = line[1].decode().partition("?")[0]
            is_listing = path == ROOT and ROOT not in responses
            found = LISTING if is_listing else responses.get(path, MISSING)
            is_head = line[0] == b"HEAD"
            self.wfile.write(found.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if is_head else found)
            if isinstance(found, Endless) and not is_head:
                with suppress(OSError):
                    while not closing.wait(0.01):
                        self.wfile.write(b"x" * 1000)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            closing.set()
            server.shutdown()
