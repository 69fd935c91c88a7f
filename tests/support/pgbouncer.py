"""PgBouncer before the database of an instance."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pulpcore.content_star.cli.account import as_account
from pulpcore.content_star.cli.postgres import PORT
from pulpcore.content_star.cli.state import DATABASE
from tests.support.instance import Instance, stop, wait_until
from tests.support.server import free_port

_CONFIGURATION = """\
[databases]
* = host={host} port={database_port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {sessions}
"""


@dataclass(frozen=True)
class PgBouncer:
    """A running pooler."""

    port: int
    environ: dict[str, str]
    """Environment of a server that connects through the pooler."""


@contextmanager
def pgbouncer(
    instance: Instance,
    folder: Path,
    mode: str = "transaction",
    sessions: int = 20,
    port: int | None = None,
) -> Iterator[PgBouncer]:
    """Run PgBouncer with at most so many sessions of the database; skip the test without it.

    It listens on `port`, or a random one, and keeps its files in `folder`, which becomes readable
    for the account that it runs as.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("needs Debian's package pgbouncer")
    port = port or free_port()
    folder.chmod(0o755)
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        _CONFIGURATION.format(
            host=instance.address.socket_dir,
            database_port=PORT,
            user=DATABASE,
            port=port,
            mode=mode,
            sessions=sessions,
        )
    )
    settings = json.loads(instance.environ["PULP_DATABASES"].removeprefix("@json "))
    settings["default"] |= {"HOST": "127.0.0.1", "PORT": str(port)}
    settings["default"]["DISABLE_SERVER_SIDE_CURSORS"] = mode == "transaction"
    log = folder / "pgbouncer.log"
    # It refuses to run as root, and needs access to the server's socket.
    process = instance.spawn([*as_account(), program, str(configuration)], output=log)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        return "process up" in log.read_text()

    try:
        wait_until(answers)
        yield PgBouncer(port, {"PULP_DATABASES": "@json " + json.dumps(settings)})
    finally:
        stop(process)
