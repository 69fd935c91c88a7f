"""Heartbeat of the process: its AppStatus rows, read by `/pulp/api/v3/status/` and by workers.

A process that serves both the API and content has two rows. Upstream's manager allows one per
process, `current()`, under which tasks that the process runs itself are locked.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Literal

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from pulpcore.content_star.database.executor import CLOSE_TIMEOUT, DatabaseExecutor
from pulpcore.content_star.upstream import AppStatus, get_worker_name
from pulpcore.plugin.apps import pulp_plugin_configs

log = logging.getLogger(__name__)

AppType = Literal["api", "content"]

# Seconds before a failed write is retried.
RETRY_PAUSE = 2.0


class Heartbeat:
    """Writes the heartbeats of this process, from a database executor of its own.

    With the executor of content, heartbeats would wait behind slow requests (pulpcore issue 7315).
    A heartbeat that fails is retried, and logged if the one before did not; a row that was deleted
    is inserted again.
    """

    def __init__(self, *app_types: AppType) -> None:
        """`app_types` get a row each; the first one becomes `current()`."""
        self._rows = [_Row(app_type, current=not i) for i, app_type in enumerate(app_types)]
        # A second attempt has to succeed before the rows expire.
        timeout = min(settings.CONTENT_STAR_DATABASE_TIMEOUT, 2 * self._interval)
        self._executor = DatabaseExecutor(threads=1, name="heartbeat-db", timeout=timeout)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Insert the rows and start the background task that writes heartbeats.

        A failure to insert a row is logged, and the background task retries it.
        """
        with self._executor.asynchronous_orm():
            await self._beat()
            self._task = asyncio.create_task(self._beat_forever(), name="heartbeat")

    async def stop(self) -> None:
        """Stop the background task and delete the rows, each with a timeout (`CLOSE_TIMEOUT`)."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with self._executor.asynchronous_orm():
            await asyncio.gather(*map(self._remove, self._rows))
        await self._executor.close()

    async def _remove(self, row: "_Row") -> None:
        try:
            await asyncio.wait_for(row.remove(), CLOSE_TIMEOUT)
        except Exception as error:
            log.warning("%s: cannot delete its row, which expires after its TTL: %r", row, error)

    async def _beat_forever(self) -> None:
        while True:
            healthy = all(row.healthy for row in self._rows)
            await asyncio.sleep(self._interval if healthy else RETRY_PAUSE)
            await self._beat()

    @property
    def _interval(self) -> float:
        return min(row.interval for row in self._rows)

    async def _beat(self) -> None:
        for row in self._rows:
            try:
                await row.beat()
            except Exception as error:
                if row.healthy is not False:
                    log.error(
                        "%s: cannot write its row, retrying every %.0f s: %s",
                        row,
                        RETRY_PAUSE,
                        error,
                    )
                row.healthy = False
            else:
                if row.healthy is False:
                    log.info("%s: its row is written again.", row)
                row.healthy = True


class _Row:
    """One AppStatus row. Coroutines run inside `DatabaseExecutor.asynchronous_orm`."""

    def __init__(self, app_type: AppType, current: bool) -> None:
        ttl = settings.API_APP_TTL if app_type == "api" else settings.CONTENT_APP_TTL
        self.interval = ttl / 4
        self.healthy: bool | None = None
        """Whether the last heartbeat was written; None before the first."""
        self._current = current
        self._registered = False
        self._status = AppStatus(
            app_type=app_type,
            name=get_worker_name(),
            versions={config.label: config.version for config in pulp_plugin_configs()},
            ttl=timedelta(seconds=ttl),
        )

    def __str__(self) -> str:
        return f"Heartbeat of the {self._status.app_type} app {self._status.name}"

    async def beat(self) -> None:
        if await self._queryset().aupdate(last_heartbeat=timezone.now()):
            return
        if self._registered:
            log.warning("%s: its row was deleted, inserting it again", self)
        # Not `create()`, which refuses a second row per process.
        await AppStatus.objects.abulk_create([self._status], ignore_conflicts=True)
        self._registered = True
        if self._current:
            AppStatus.objects._current_app_status = self._status

    async def remove(self) -> None:
        await self._queryset().adelete()
        if self._current:
            AppStatus.objects._current_app_status = None

    def _queryset(self) -> QuerySet[AppStatus]:
        return AppStatus.objects.filter(pk=self._status.pk)
