"""A PostgreSQL server for tests that stop it: a copy of the session's, or a standby."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from django.db import connection

from pulpcore.content_star.cli import postgres
from pulpcore.content_star.cli.account import as_account, give_to_account
from tests.support.instance import Instance, wait_until


class Cluster:
    """A PostgreSQL server, from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the server, with options such as `-c max_connections=10`, and wait for it."""
        self.launch(*options)
        wait_until(self.answers)

    def launch(self, *options: str) -> None:
        """Start the server without waiting."""
        command = [
            *(*as_account(), postgres.programs() / "postgres", "-D", self.data),
            *("-h", "", "-k", self.folder, "-p", "5432", *options),
        ]
        self.process = subprocess.Popen(
            command, env=postgres._environ(), cwd=self.data, stderr=subprocess.DEVNULL
        )

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: SIGINT is a fast shutdown, SIGQUIT an immediate one."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(300)

    def suspend(self) -> None:
        """Stop all of its processes with SIGSTOP: connections hang."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """Return the postmaster, so that it starts none, and its children."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder), port=5432, user="pulp", dbname="pulp", autocommit=True
        )

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def databases(self, instance: Instance) -> str:
        """Return `PULP_DATABASES` of the instance with this server in place of its own."""
        host = f'"HOST": "{connection.settings_dict["HOST"]}"'
        databases = instance.environ["PULP_DATABASES"]
        assert host in databases
        return databases.replace(host, f'"HOST": "{self.folder}"')


@contextmanager
def cluster(*, standby: bool = False, directory: Path | None = None) -> Iterator[Cluster]:
    """Copy the session's database to a server that is not running; or make a standby of it.

    Its files are below `directory`, or below that for temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=directory))
    give_to_account(folder)
    copy = Cluster(folder)
    host = connection.settings_dict["HOST"]
    command = [
        *(*as_account(), postgres.programs() / "pg_basebackup", "-D", copy.data),
        *("-h", host, "-p", "5432", "-U", "pulp", "--checkpoint=fast", "--no-sync"),
        *(["--write-recovery-conf"] if standby else []),
    ]
    try:
        subprocess.run(command, env=postgres._environ(), cwd=folder, check=True, timeout=300)
        yield copy
    finally:
        if copy.process is not None and copy.process.poll() is None:
            copy.resume()
            copy.stop()
        shutil.rmtree(folder)
