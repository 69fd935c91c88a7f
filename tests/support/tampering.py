"""A reverse proxy that changes some responses, and counts what it is asked."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


@dataclass
class Answer:
    """A response on its way to the client."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False
    """Whether the connection is closed before the last byte."""


@dataclass
class Seen:
    """A request that has come."""

    method: str
    target: str
    headers: dict[str, str]
    at: float


Tamper = Callable[[Seen, Answer], None]


@dataclass
class TamperingProxy:
    """The proxy; `url` stands for the origin behind."""

    url: str
    behind: str
    tamper: Tamper
    seen: list[Seen] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def counted(self, seen: Seen) -> Iterator[int]:
        """Count a request while it is under way; yield its number."""
        with self._lock:
            self.seen.append(seen)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield len(self.seen)
        finally:
            with self._lock:
                self._at_once -= 1


def unchanged(seen: Seen, answer: Answer) -> None:
    """Change nothing."""


@contextmanager
def tampering(behind: str, tamper: Tamper = unchanged, port: int = 0) -> Iterator[TamperingProxy]:
    """Serve what is at the origin `behind` on another port, changed by `tamper`."""
    client = httpx.Client(trust_env=False, timeout=300)
    client.headers.clear()  # only those of the client

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            seen = Seen(self.command, self.path, dict(self.headers.items()), time.monotonic())
            with proxy.counted(seen):
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
                request = client.build_request(self.command, behind, headers=headers)
                request.url = request.url.copy_with(raw_path=self.path.encode())
                response = client.send(request, stream=True)
                body = b"".join(response.iter_raw())
                response.close()
                kept = {k: v for k, v in response.headers.items() if k not in HOP_BY_HOP}
                answer = Answer(response.status_code, kept, body)
                if self.command != "HEAD" and response.status_code not in (204, 304):
                    answer.headers["content-length"] = str(len(body))
                proxy.tamper(seen, answer)
                self.respond(answer)

        def respond(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[:-1] if answer.cut else answer.body)
            if answer.cut:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_POST = do_OPTIONS = handle_request

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    class Proxy(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Show errors of the proxy; clients may go."""
            if not isinstance(sys.exception(), OSError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = Proxy(("127.0.0.1", port), Handler)
    proxy = TamperingProxy(f"http://127.0.0.1:{server.server_port}", behind, tamper)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        client.close()
