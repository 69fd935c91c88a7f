"""Replaced functions of pulpcore, drf-spectacular and asgiref exist and are called."""

import asyncio
import threading
from importlib import import_module

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from pulpcore.content_star.database.executor import leave_event_loop
from pulpcore.content_star.django_app.isolation import isolated_task, isolated_tasks


@pytest.mark.parametrize("name", ["tasks", "redis_tasks"])
def test_dispatch_runs_tasks_in_using_workdir_while_the_application_runs(name):
    module = import_module(f"pulpcore.tasking.{name}")
    original = module.using_workdir
    for function in (module.dispatch, module.adispatch):
        assert function.__globals__ is vars(module)
        assert "using_workdir" in function.__code__.co_names

    async def replaced() -> object:
        async with isolated_tasks():
            return module.using_workdir

    assert asyncio.run(replaced()) is isolated_task
    assert module.using_workdir is original


def test_async_to_sync_after_leave_event_loop_runs_in_a_new_event_loop():
    async def here() -> tuple[object, int]:
        return asyncio.get_running_loop(), threading.get_ident()

    def view() -> tuple[object, int]:
        leave_event_loop()
        return async_to_sync(here)()

    async def server() -> None:
        loop, thread = await sync_to_async(view)()
        assert loop is not asyncio.get_running_loop()
        assert thread != threading.get_ident()

    asyncio.run(server())
