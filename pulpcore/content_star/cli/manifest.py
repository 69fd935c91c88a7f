"""Local HTTP server for a worker: a PULP_MANIFEST and the files that it lists."""

import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from pulpcore.content_star.cli.folder import File, open_file


@contextmanager
def served(files: Iterable[File]) -> Iterator[str]:
    """Serve these files on the loopback interface, and yield the URL of their manifest.

    The paths begin with a secret token, so that other users cannot read the files.
    """
    server = _Server(list(files))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{server.manifest_path}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def manifest(files: Iterable[File]) -> str:
    """Return a PULP_MANIFEST. Names are not escaped: Pulp splits lines at the last commas."""
    return "".join(f"{file.relative_path},{file.sha256},{file.size}\n" for file in files)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, files: list[File]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        root = f"/{secrets.token_urlsafe(16)}/"
        # Pulp resolves names against its URL; the random name cannot be that of a file.
        self.manifest_path = f"{root}manifest-{secrets.token_urlsafe(8)}"
        self.manifest = manifest(files).encode()
        self.files = {root + file.relative_path: file for file in files}

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of connections; the sync task reports failed downloads."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        path = unquote(self.path)
        if path == self.server.manifest_path:
            self._begin(len(self.server.manifest))
            self.wfile.write(self.server.manifest)
        elif path in self.server.files:
            self._send(self.server.files[path])
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, file: File) -> None:
        try:
            stream = open_file(file.path)
        except OSError as error:
            self.send_error(HTTPStatus.GONE, error.strerror)
            return
        with stream:
            # No more bytes than Content-Length, even if the file has grown.
            self._begin(file.size)
            sent = self.connection.sendfile(stream, count=file.size) if file.size else 0
            self.close_connection = sent != file.size

    def _begin(self, length: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the terminal shows a progress bar."""
