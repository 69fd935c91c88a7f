"""Checks of an installation before it gets traffic: `pulpcore-manager content-star-check`.

Each check yields lines: `ok`, `note` for what an operator should know, or `fault` with the remedy.
They only read, but for a temporary file in `WORKING_DIRECTORY` and a notification to themselves.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from packaging.requirements import Requirement
from psycopg import Error as PostgresError

from pulpcore.content_star.aiohttp_bridge.modules import import_modules
from pulpcore.content_star.app.check_line import Line
from pulpcore.content_star.app.setting_values import invalid_settings
from pulpcore.content_star.app.storage_check import storage
from pulpcore.content_star.cache.invalidation.listener import (
    NotificationsUnavailable,
    check_notifications,
)
from pulpcore.content_star.cache.invalidation.triggers import COUNT_ENABLED, triggers
from pulpcore.content_star.database.connection import set_connection_defaults
from pulpcore.content_star.database.threads import PAGE_THREADS
from pulpcore.content_star.django_app.password_hashing import SLOTS
from pulpcore.content_star.plugin_host import discovery

TESTED_PLUGINS = {
    "pulp-ansible": "0.30.3",
    "pulp-container": "2.30.0",
    "pulp-deb": "3.11.1",
    "pulp-gem": "0.8.0",
    "pulp-maven": "0.36.0",
    "pulp-npm": "0.10.2",
    "pulp-ostree": "2.6.1",
    "pulp-python": "3.36.4",
    "pulp-rpm": "3.39.4",
}
"""Versions that docs/plugins.md has results of."""

MAX_SKEW = 1.0
"""Seconds between the clocks of this machine and the database."""

MIN_FREE = 1 << 30
"""Free bytes of WORKING_DIRECTORY, where files of remotes and uploads are written first."""

MIN_TTL = 10
"""Seconds of CONTENT_APP_TTL; a quarter of it is the time between two heartbeats."""


def check(workers: int) -> Iterator[Line]:
    """Yield the lines of all checks; one that fails itself is a fault."""
    set_connection_defaults()  # as the process does, so that a database that is silent is a fault
    every: dict[str, Callable[[], Iterator[Line]]] = {
        "system": system,
        "pulpcore": pulpcore_version,
        "plugins": plugins,
        "migrations": migrations,
        "triggers": installed_triggers,
        "notifications": notifications,
        "connections": lambda: connections(workers),
        "clock": clock,
        "storage": storage,
        "settings": changed_settings,
        "temporary files": temporary_files,
    }
    for name, lines in every.items():
        try:
            yield from lines()
        except (DatabaseError, PostgresError) as error:
            yield Line("fault", name, f"the database failed: {_reason(error)}; check DATABASES")
        except Exception as error:  # of plugins' modules, or by settings
            yield Line("fault", name, f"the check failed: {type(error).__name__}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return the first line of an error."""
    return str(error).strip().partition("\n")[0] or repr(error)


def system() -> Iterator[Line]:
    """Yield the errors of Django's system checks, which keep other commands from running."""
    found = [each for each in checks.run_checks() if each.is_serious() and not each.is_silenced()]
    for each in found:
        message = " ".join(f"{each.msg} ({each.id})".split())
        yield Line("fault", "system", f"{message}: {each.hint or 'correct the settings'}")
    if not found:
        yield Line("ok", "system", "Django's checks find no error")


def pulpcore_version() -> Iterator[Line]:
    """Compare the version of pulpcore with the supported ones."""
    installed = metadata.version("pulpcore")
    requirements = map(Requirement, metadata.requires("pulp-content-star") or ())
    supported = next(each.specifier for each in requirements if each.name == "pulpcore")
    if installed in supported:
        yield Line("ok", "pulpcore", f"{installed}, supported are {supported}")
    else:
        yield Line(
            "fault", "pulpcore", f"{installed} is not supported: install pulpcore {supported}"
        )


def plugins() -> Iterator[Line]:
    """Yield how each plugin is served, and the version that was tested."""
    asyncio.run(_import_plugins())
    for plugin in discovery.as_json():
        label = str(plugin["label"])
        name = f"pulp-{label}"
        tested = TESTED_PLUGINS.get(name)
        text = f"{label} {plugin['version']} is {plugin['served']}: {plugin['why']}"
        text += f"; tested with {tested}" if tested else ""
        if plugin["served"] == "refused":
            remedy = "set CONTENT_STAR_LEGACY_PLUGINS to bridge or proxy, or update the plugin"
            yield Line("fault", "plugins", f"{text}: {remedy}")
        elif plugin["problem"]:
            yield Line("fault", "plugins", f"{text}; {plugin['problem']}: update the plugin")
        else:
            yield Line("ok" if plugin["served"] == "native" else "note", "plugins", text)


async def _import_plugins() -> None:
    import_modules(discovery.plugins_for_aiohttp())


def migrations() -> Iterator[Line]:
    """Find migrations that have not been applied."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not plan:
        yield Line("ok", "migrations", "all are applied")
        return
    names = ", ".join(f"{migration.app_label} {migration.name}" for migration, _ in plan[:5])
    yield Line(
        "fault", "migrations", f"{len(plan)} are missing ({names}): run pulpcore-manager migrate"
    )


def installed_triggers() -> Iterator[Line]:
    """Count the triggers that invalidate the response cache."""
    expected = triggers()
    with connection.cursor() as cursor:
        cursor.execute(COUNT_ENABLED, [list({trigger.table for trigger in expected})])
        (count,) = cursor.fetchone()
    if count >= len(expected):
        yield Line("ok", "triggers", f"{count} of {len(expected)} are enabled")
    else:
        yield Line(
            "fault",
            "triggers",
            f"{count} of {len(expected)} are enabled, so nothing is cached: "
            "run pulpcore-manager migrate",
        )


def notifications() -> Iterator[Line]:
    """Receive a notification as the listener does, which a pooler may prevent."""
    try:
        asyncio.run(check_notifications())
    except NotificationsUnavailable as error:
        yield Line("fault", "notifications", f"{error}; until then nothing is cached")
    except (OSError, TimeoutError) as error:
        yield Line("fault", "notifications", f"the listener cannot connect: {error or 'timeout'}")
    else:
        yield Line("ok", "notifications", "they arrive")


def connections_per_process() -> dict[str, int]:
    """Return the connections of a process by purpose, as docs/database.md counts them."""
    threads = settings.CONTENT_STAR_DATABASE_THREADS
    return {
        "content": threads,
        "pages": PAGE_THREADS,
        "routes of plugins": threads if discovery.plugins_for_aiohttp() else 0,
        "heartbeat, listener, fetch lock": 4,
        "passwords": 2,
        "saving": 2,
        "API": settings.CONTENT_STAR_API_THREADS,
        "hashing of API passwords": SLOTS,
        "uploads": settings.CONTENT_STAR_UPLOAD_THREADS,
    }


def connections(workers: int) -> Iterator[Line]:
    """Compare the connections that the processes may open with those that are free."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int,"
            " current_setting('superuser_reserved_connections')::int,"
            " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
        )
        limit, reserved, used = cursor.fetchone()
    purposes = connections_per_process()
    need, free = workers * sum(purposes.values()), limit - reserved - used
    always = need - workers * purposes["uploads"]
    parts = " + ".join(f"{count} {purpose}" for purpose, count in purposes.items() if count)
    text = (
        f"{workers} x ({parts}) = {need} at most, {always} without uploads; "
        f"{limit} - {reserved} reserved - {used} in use = {free} are free"
    )
    remedy = f"raise max_connections to {limit + need - free}, or start fewer workers"
    if free >= need:
        yield Line("ok", "connections", text)
    elif free >= always:
        yield Line("note", "connections", f"{text}: for that many uploads at once, {remedy}")
    else:
        yield Line("fault", "connections", f"{text}: {remedy}")


def clock() -> Iterator[Line]:
    """Compare the clocks of this machine and of the database."""
    with connection.cursor() as cursor:
        before = time.time()
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        (there,) = cursor.fetchone()
        after = time.time()
    yield skew(there, before, after)


def skew(there: float, before: float, after: float) -> Line:
    """Return the line for a database's time, read between two moments of this machine."""
    difference = max(before - there, there - after, 0.0)
    if difference <= MAX_SKEW:
        return Line("ok", "clock", "that of the database agrees")
    return Line(
        "fault",
        "clock",
        f"it differs from the database's by {difference:.1f} s, so heartbeats and signed URLs "
        "expire at the wrong time: synchronize both with NTP",
    )


def changed_settings() -> Iterator[Line]:
    """Yield settings that change how content is served."""
    name = "settings"
    ttl = settings.CONTENT_APP_TTL
    if ttl < MIN_TTL:
        text = f"CONTENT_APP_TTL is {ttl} s: a late heartbeat removes a process, set 30"
        yield Line("fault", name, text)
    if not getattr(settings, "CONTENT_ORIGIN", None):
        yield Line("note", name, "CONTENT_ORIGIN is not set: links to content have no host")
    if settings.CONTENT_PATH_PREFIX != "/pulp/content/":
        yield Line("note", name, f"CONTENT_PATH_PREFIX is {settings.CONTENT_PATH_PREFIX}")
    if settings.CACHE_ENABLED:
        yield Line(
            "note", name, "CACHE_ENABLED: the API uses Redis; content has a cache of its own"
        )
    if settings.DOMAIN_ENABLED:
        yield Line("note", name, "DOMAIN_ENABLED: content is below the name of its domain")
    remote_user = [each for each in settings.AUTHENTICATION_BACKENDS if "Remote" in each]
    if remote_user:
        yield Line(
            "note",
            name,
            f"{', '.join(remote_user)}: the web server in front has to replace "
            f"{settings.REMOTE_USER_ENVIRON_NAME}, or clients choose their user",
        )
    if settings.CONTENT_STAR_LEGACY_PLUGINS == "proxy" and not settings.CONTENT_STAR_LEGACY_URL:
        yield Line(
            "fault", name, "CONTENT_STAR_LEGACY_PLUGINS is proxy: set CONTENT_STAR_LEGACY_URL"
        )
    for text in invalid_settings():
        yield Line("fault", name, text)
    yield Line("ok", name, f"content is at {settings.CONTENT_PATH_PREFIX}")


def temporary_files() -> Iterator[Line]:
    """Write a file to WORKING_DIRECTORY, and look how much space there is."""
    folder, name = settings.WORKING_DIRECTORY, "temporary files"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Line(
            "fault",
            name,
            f"WORKING_DIRECTORY {folder} cannot be written: {error.strerror}: create it for this "
            "user, or set another one",
        )
        return
    yield space(str(folder), free)


def space(folder: str, free: int) -> Line:
    """Return the line for free bytes."""
    text = f"{free / (1 << 30):.1f} GiB are free in WORKING_DIRECTORY {folder}"
    if free >= MIN_FREE:
        return Line("ok", "temporary files", text)
    remedy = "files of remotes and uploads are written there first: make room"
    return Line("fault", "temporary files", f"{text}: {remedy}")


def levels(lines: list[Line]) -> dict[str, Any]:
    """Count the lines of each level."""
    return {level: sum(line.level == level for line in lines) for level in ("ok", "note", "fault")}
