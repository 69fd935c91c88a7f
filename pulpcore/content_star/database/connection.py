"""Connections to the database: defaults of libpq's parameters, and ways out of one that hangs.

Without the defaults, a connection to a host that has vanished waits for TCP: two hours for a reply,
and a quarter of an hour for the acknowledgement of a query.
"""

import logging
import os
import socket
import threading
from contextlib import suppress
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections
from psycopg import generators
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGcancelConn
from psycopg.waiting import wait_conn

log = logging.getLogger(__name__)

# Parameters of libpq: seconds until an attempt to connect fails; milliseconds that sent data may
# stay unacknowledged; seconds of silence before the first of three probes, and between them, so
# that a connection to a vanished host is lost after 20 seconds.
PARAMETERS: dict[str, int] = {
    "connect_timeout": 3,
    "tcp_user_timeout": 10_000,
    "keepalives": 1,
    "keepalives_idle": 11,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}

# Maximum of cancel requests at a time, each of which has a thread, and seconds that PostgreSQL has
# to accept one.
MAX_CANCEL_REQUESTS, CANCEL_TIMEOUT = 4, 5.0

# Largest `statement_timeout` of PostgreSQL in whole seconds: it counts milliseconds in 32 bits.
MAX_STATEMENT_TIMEOUT = 2_147_483

# Behind a pooler the session is not ours alone: it has another process id than the pooler reports.
_LIMIT_STATEMENTS = """
    SELECT set_config('statement_timeout', %s, false)
    WHERE current_setting('statement_timeout') = '0' AND pg_backend_pid() = %s
"""

_cancel_slots = threading.Semaphore(MAX_CANCEL_REQUESTS)


def set_connection_defaults() -> None:
    """Add `PARAMETERS` to the `OPTIONS` of Django's database, for all threads of the process.

    Those of the operator take precedence: in `OPTIONS`, in the environment (`PGCONNECT_TIMEOUT`),
    and in a service file, which may have any of them.
    """
    options = connections.settings[DEFAULT_DB_ALIAS]["OPTIONS"]
    if "service" in options:
        return
    for parameter in psycopg.pq.Conninfo.get_defaults():
        name = parameter.keyword.decode()
        if name in PARAMETERS and parameter.val is None:
            options.setdefault(name, PARAMETERS[name])


def limit_statements(seconds: float) -> None:
    """Make PostgreSQL cancel statements of this thread's connection after `seconds`. Blocks.

    It ends queries whose client has given up or vanished. Leaves a limit that the operator has set,
    and sessions that are shared, by psycopg's pool or by a pooler.
    """
    if connection.settings_dict["OPTIONS"].get("pool"):
        return
    milliseconds = min(seconds, MAX_STATEMENT_TIMEOUT) * 1000
    with connection.cursor() as cursor:
        pid = connection.connection.info.backend_pid
        cursor.execute(_LIMIT_STATEMENTS, [f"{milliseconds:.0f}ms", pid])


def is_in_transaction() -> bool:
    """Return whether a transaction is open on a connection of this thread."""
    return any(opened.in_atomic_block for opened in connections.all(initialized_only=True))


def close_connections() -> None:
    """Close the connections of this thread, except those with an open transaction."""
    for opened in connections.all(initialized_only=True):
        if not opened.in_atomic_block:
            opened.close()


def ends_session(error: Exception) -> bool:
    """Return whether a database error of Django says that its connection was lost.

    PostgreSQL ends a session with an error of the severity FATAL, a crash with PANIC. Those of
    libpq, such as for a closed socket, have no SQLSTATE.
    """
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return False
    if cause.sqlstate is None:
        return isinstance(cause, psycopg.OperationalError)
    return cause.diag.severity_nonlocalized in ("FATAL", "PANIC")


def is_waiting(database: "psycopg.Connection[Any]") -> bool:
    """Return whether a query is in progress on a connection, which may be another thread's."""
    return database.pgconn.transaction_status == TransactionStatus.ACTIVE


def interrupt(database: "psycopg.Connection[Any]") -> None:
    """Make the query in progress fail as if the connection had been lost. Does not block.

    A thread that waits for PostgreSQL cannot be interrupted, but libpq returns when the socket is
    shut down. PostgreSQL, which would notice only at the end of the query, is asked to cancel it,
    with libpq 17 or later.
    """
    pgconn = database.pgconn
    request: PGcancelConn | None = None
    with suppress(psycopg.Error):
        request = pgconn.cancel_conn()
    with suppress(psycopg.Error, OSError):
        descriptor = pgconn.socket
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            # Its thread may have closed the connection, and another one have opened a file since.
            if pgconn.socket == descriptor:
                duplicate.shutdown(socket.SHUT_RDWR)
    if request is not None:  # last: the query must not fail as cancelled
        _start_cancelling(request)


def _start_cancelling(request: PGcancelConn) -> None:
    """Send a cancel request in a thread, unless there are too many."""
    if not _cancel_slots.acquire(blocking=False):
        return
    try:
        threading.Thread(target=_cancel, args=[request], name="cancel-db", daemon=True).start()
    except RuntimeError as error:
        _cancel_slots.release()
        log.debug("No thread for a cancel request: %s", error)


def _cancel(request: PGcancelConn) -> None:
    try:
        # Not `blocking`, in which psycopg holds the interpreter's lock.
        request.start()
        wait_conn(generators.cancel(request), interval=1.0, timeout=CANCEL_TIMEOUT)
    except psycopg.Error as error:
        log.debug("PostgreSQL did not accept a cancel request: %s", error)
    finally:
        _cancel_slots.release()
