"""A real nginx with configurations of the documentation, on a port of its own."""

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.instance import stop, wait_until

SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
NGINX = shutil.which("nginx", path=SYSTEM_PATH)
DEPLOY = Path(__file__).parents[2] / "deploy"
# The account of a web server's workers, where the tests run as root.
USER = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(USER.pw_gid)


def replace_all(text: str, values: dict[str, str]) -> str:
    """Replace each key, which must occur, by its value."""
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def complete_configuration(
    folder: Path, http: str, user: str = f"{USER.pw_name} {GROUP.gr_name}"
) -> str:
    """Return a whole configuration around directives of the `http` block.

    Workers run as `user` where nginx is started by root.
    """
    return f"""
        daemon off;
        worker_processes 1;
        {f"user {user};" if os.geteuid() == 0 else ""}
        pid {folder}/pid;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            {http}
        }}
    """


@dataclass
class Nginx:
    """A running nginx that listens on `port`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def errors(self) -> str:
        """Return its error log."""
        return (self.folder / "error.log").read_text()

    def workers(self) -> set[int]:
        """Return the pids of its workers."""
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def reload(self, http: str) -> None:
        """Replace the configuration, and wait until no worker has the former one."""
        former = self.workers()
        _configuration(self.folder).write_text(complete_configuration(self.folder, http))
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.workers() - former, explain=self.errors)
        wait_until(lambda: not self.workers() & former, explain=self.errors)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a directory in which nginx's workers can write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextlib.contextmanager
def running_nginx(folder: Path, port: int, http: str) -> Iterator[Nginx]:
    """Run nginx with directives of the `http` block, and wait until it listens on `port`."""
    configuration = _configuration(folder)
    configuration.write_text(complete_configuration(folder, http))
    command = [str(NGINX), "-c", str(configuration), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, start_new_session=True)
    nginx = Nginx(folder, port, process)
    try:
        wait_until(lambda: listens(process, folder / "error.log", port))
        yield nginx
    finally:
        stop(process)


def listens(process: subprocess.Popen[bytes], errors: Path, port: int) -> bool:
    """Return whether a web server listens; fail with its error log if it has ended."""
    assert process.poll() is None, errors.read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _configuration(folder: Path) -> Path:
    return folder / "nginx.conf"
