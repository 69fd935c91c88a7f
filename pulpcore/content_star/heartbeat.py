"""AppStatus rows: how `/pulp/api/v3/status/` and the workers know that a process is alive.

A process that serves both the API and content needs two rows. Upstream's manager allows one a
process and calls it `current()`: tasks that the process runs itself are locked under that row.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Literal

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from pulpcore.app.apps import pulp_plugin_configs
from pulpcore.app.models import AppStatus
from pulpcore.app.util import get_worker_name
from pulpcore.content_star.database.executor import CLOSE_TIMEOUT, DatabaseExecutor

log = logging.getLogger(__name__)

AppType = Literal["api", "content"]

# Seconds to wait before another try at registering or beating.
RETRY_PAUSE = 2.0


class Heartbeat:
    """Keeps the AppStatus rows of this process alive, in a thread of their own.

    A heartbeat must not wait behind slow content requests (pulpcore issue 7315), so it does not
    share their threads. A failing heartbeat ends nothing: it is logged and tried again, and a row
    that somebody removed meanwhile is registered anew.
    """

    def __init__(self, *app_types: AppType) -> None:
        """`app_types`: what the process is; the first one becomes the process's `current()`."""
        self._rows = [_Row(app_type, current=not i) for i, app_type in enumerate(app_types)]
        self._door = DatabaseExecutor(threads=1, name="heartbeat-db")
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Register the rows and go on beating in the background.

        Returns when all rows are in, or at the first failure: then the background keeps trying.
        """
        await self._beat()
        self._beating = asyncio.create_task(self._beat_forever(), name="heartbeat")

    async def stop(self) -> None:
        """Stop beating and remove the rows; a database that is away is logged, not waited for."""
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating
        await asyncio.gather(*map(self._remove, self._rows))
        await self._door.close()

    async def _remove(self, row: "_Row") -> None:
        try:
            await asyncio.wait_for(self._door.run(row.remove), CLOSE_TIMEOUT)
        except Exception as error:
            log.warning("%s could not be removed: %r", row, error)

    async def _beat_forever(self) -> None:
        interval = min(row.interval for row in self._rows)
        while True:
            healthy = all(row.healthy for row in self._rows)
            await asyncio.sleep(interval if healthy else RETRY_PAUSE)
            await self._beat()

    async def _beat(self) -> None:
        for row in self._rows:
            try:
                await self._door.run(row.beat)
                row.healthy = True
            except Exception as error:
                row.healthy = False
                log.error("%s could not be written, trying again: %s", row, error)


class _Row:
    """One AppStatus row; its methods block and run in the heartbeat's thread."""

    def __init__(self, app_type: AppType, current: bool) -> None:
        ttl = settings.API_APP_TTL if app_type == "api" else settings.CONTENT_APP_TTL
        self.interval = ttl / 4
        self.healthy = False
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

    def beat(self) -> None:
        if self._mine().update(last_heartbeat=timezone.now()):
            return
        if self._registered:
            log.warning("%s: its row is gone, registering again", self)
        # Not `create()`, which refuses a process's second row; done twice, the second does nothing.
        AppStatus.objects.bulk_create([self._status], ignore_conflicts=True)
        self._registered = True
        if self._current:
            AppStatus.objects._current_app_status = self._status

    def remove(self) -> None:
        self._mine().delete()
        if self._current:
            AppStatus.objects._current_app_status = None

    def _mine(self) -> QuerySet[AppStatus]:
        return AppStatus.objects.filter(pk=self._status.pk)
