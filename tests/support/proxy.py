"""A forward proxy with Basic authentication, for remotes with `proxy_url`."""

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

USER, PASSWORD = "someone", "secret-of-the-proxy"


@dataclass
class Proxy:
    port: int
    seen: list[tuple[str, str, bool]] = field(default_factory=list)
    """Method, target and whether the password was right, of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(1 << 16)
                if not more:
                    return
                head += more
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            password = base64.b64encode(f"{USER}:{PASSWORD}".encode())
            allowed = b"\r\nProxy-Authorization: Basic " + password + b"\r\n" in head
            self.seen.append((method, target, allowed))
            if not allowed:
                client.sendall(b"HTTP/1.1 407 Denied\r\nContent-Length: 0\r\n\r\n")
                return
            address = urlsplit(f"//{target}" if method == "CONNECT" else target)
            with socket.create_connection((address.hostname, address.port)) as server:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    server.sendall(head.replace(target.encode(), address.path.encode(), 1))
                back = threading.Thread(target=relay, args=[server, client], daemon=True)
                back.start()
                relay(client, server)
                back.join()


def relay(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving_proxy() -> Iterator[Proxy]:
    """Run a proxy in threads on a random port."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(listener.getsockname()[1])

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=proxy.serve, args=[client], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
