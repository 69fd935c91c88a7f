"""Waits until every process on the database has heard of what has been committed.

Content apps answer from memory until they hear of a change, some milliseconds after its commit and
a second at most. Tests that change something and look at once ask all of them whether they have
heard (`sync`, see `cache/invalidation/listener.py`). Django's connections in this process do so
after a write.
"""

import threading
import uuid
from typing import Any

import psycopg

_WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "COPY")

_lock = threading.Lock()
_own: psycopg.Connection | None = None


def watch() -> None:
    """Have all of Django's connections that are made from now on settle what they write."""
    from django.db.backends.signals import connection_created

    connection_created.connect(_watch)


def settle() -> None:
    """Return when everything committed before is heard of by all who listen.

    Who does not answer within `MAX_STALENESS` does not use by then what may be out of date.
    """
    from django.db import connection

    global _own
    if not connection.settings_dict["HOST"].startswith("/"):
        return  # no instance is running
    with _lock:
        try:
            if _own is None or _own.closed:
                _own = _connect(connection.get_connection_params())
            _sync(_own)
        except psycopg.OperationalError:  # the test has stopped or cut off the database
            invalidate()


def invalidate() -> None:
    """Close the connection."""
    global _own
    if _own is not None:
        _own.close()
        _own = None


def _connect(parameters: dict[str, Any]) -> psycopg.Connection:
    from pulpcore.content_star.cache.invalidation.listener import SYNCED_CHANNEL

    names = ("host", "port", "dbname", "user", "password")
    known = {name: parameters[name] for name in names if name in parameters}
    own = psycopg.connect(**known, autocommit=True, connect_timeout=5)
    own.execute(f"LISTEN {SYNCED_CHANNEL}")
    return own


def _sync(own: psycopg.Connection) -> None:
    from pulpcore.content_star.cache.invalidation.listener import APPLICATION_NAME, SYNC_PREFIX
    from pulpcore.content_star.cache.invalidation.triggers import CHANNEL
    from pulpcore.content_star.cache.store import MAX_STALENESS

    token = uuid.uuid4().hex
    rows = own.execute(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = %s AND datname = current_database()",
        [APPLICATION_NAME],
    )
    # By name: one that has just begun to listen may answer too.
    missing = {pid for (pid,) in rows}
    if not missing:
        return
    own.execute("SELECT pg_notify(%s, %s)", [CHANNEL, SYNC_PREFIX + token])
    for notification in own.notifies(timeout=MAX_STALENESS):
        if notification.payload == token:
            missing.discard(notification.pid)
        if not missing:
            return


def _watch(connection: Any, **kwargs: Any) -> None:
    connection.execute_wrappers.append(_settling)


def _settling(execute: Any, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    result = execute(sql, params, many, context)
    if str(sql).lstrip().upper().startswith(_WRITES):
        connection = context["connection"]
        # Once, for all that a transaction writes.
        if all(hook is not settle for _, hook, *_ in connection.run_on_commit):
            connection.on_commit(settle)
    return result
