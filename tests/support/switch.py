"""nginx with deploy/nginx/switch.conf before two content apps whose weights change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.nginx import DEPLOY, Nginx, replace_all, running_nginx
from tests.support.server import Server, free_port

CONTENT = "/pulp/content/"
OURS = (
    *("--http", "pulpcore.content_star.server:HttpProtocol"),
    *("--timeout-graceful-shutdown", "300", "--no-access-log"),
)


@dataclass
class Front:
    """nginx before two content apps, `old` and `new`, and the API."""

    folder: Path
    api: str
    servers: dict[str, str]
    """Origin of each server by its address in `switch.conf`."""

    port: int = field(default_factory=free_port)
    nginx: Nginx | None = None

    def http(self, weights: tuple[str, str]) -> str:
        """Return the configuration with the weights of the servers."""
        served = f"access_log {self.folder}/served.log served;"
        values = {
            "127.0.0.1:24816 weight=1": f"127.0.0.1:24816 {weights[0]}",
            "127.0.0.1:24818 down": f"127.0.0.1:24818 {weights[1]}",
            **{address: url.removeprefix("http://") for address, url in self.servers.items()},
            "127.0.0.1:24817": self.api.removeprefix("http://"),
            "listen 8080": f"listen 127.0.0.1:{self.port}",
            "location /pulp/content/ {": f"location /pulp/content/ {{ {served}",
            "# location /pulp/container/ {": f"location /pulp/container/ {{ {served}",
        }
        sample = replace_all((DEPLOY / "nginx" / "switch.conf").read_text(), values)
        return f"log_format served $upstream_addr;\n{sample}"

    @contextmanager
    def running(self, *weights: str) -> Iterator[Nginx]:
        with running_nginx(self.folder, self.port, self.http(_two(weights))) as self.nginx:
            yield self.nginx

    def shift(self, *weights: str) -> None:
        """Change the weights, and wait until no worker of nginx has the former ones."""
        assert self.nginx is not None
        self.nginx.reload(self.http(_two(weights)))
        (self.folder / "served.log").write_text("")

    def served(self) -> set[str]:
        """Return the addresses of the servers that have answered since the last shift."""
        return set((self.folder / "served.log").read_text().replace(",", " ").split())


def _two(weights: tuple[str, ...]) -> tuple[str, str]:
    old, new = weights
    return old, new


def of(*servers: Server) -> set[str]:
    """Return the addresses of servers."""
    return {server.url.removeprefix("http://") for server in servers}
