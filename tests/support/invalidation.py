"""Wait until the caches of all processes on the database are invalidated after a commit.

A content app may answer from its cache until the notification of a change arrives, milliseconds
after the commit and a second at most. So Django's connections in this process send a sync
notification after each write and wait for the replies (see `cache/invalidation/listener.py`).
"""

import threading
import uuid
from typing import Any

import psycopg

_WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "COPY")

_lock = threading.Lock()
_own: psycopg.Connection | None = None


def watch() -> None:
    """Have Django's connections opened from now on call `settle` after each write."""
    from django.db.backends.signals import connection_created

    connection_created.connect(_watch)


def settle() -> None:
    """Return when every listening process has invalidated its cache for all earlier commits.

    A process that does not reply within `MAX_STALENESS` has stopped using its cache by then.
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
    # By pid, since a process that has just begun to listen may reply too.
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
    """Add the wrapper once: Django's connection stays the same object when it connects again."""
    if _settling not in connection.execute_wrappers:
        connection.execute_wrappers.append(_settling)


def _settling(execute: Any, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    result = execute(sql, params, many, context)
    if str(sql).lstrip()[:10].upper().startswith(_WRITES):
        connection = context["connection"]
        # Once per transaction.
        if all(hook is not settle for _, hook, *_ in connection.run_on_commit):
            connection.on_commit(settle)
    return result
