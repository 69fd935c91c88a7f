"""Keeps views and immediate tasks of one thread apart from all other threads of the process.

pulpcore was written for processes of one thread without an event loop (gunicorn's sync workers).
Here each view has a thread, whose coroutines asgiref would run on the server's event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from asgiref.sync import SyncToAsync

from pulpcore.content_star.database.working_directory import (
    enter_working_directory,
    make_import_path_absolute,
    remove_shared_directories,
    temporary_directory,
)


def enter_view_thread() -> None:
    """Prepare the current thread for a view of Django's; call it before each of them.

    Relative paths lead to `WORKING_DIRECTORY`, the umask is the thread's own.
    """
    enter_working_directory()
    leave_event_loop()


def leave_event_loop() -> None:
    """Have `async_to_sync` run coroutines of this thread in an event loop of their own.

    In the server's, a task that blocks would stop all clients, one that does not would wait for
    them (within its limit of 5 s), and its relative paths would not be the thread's. A client that
    leaves would cancel it: pulpcore does not expect that, the task would stay "running" and its
    resources locked until the process ends.
    """
    local = SyncToAsync.threadlocal
    local.main_event_loop = local.task_context = None


@asynccontextmanager
async def isolated_tasks() -> AsyncIterator[None]:
    """Run immediate tasks apart from other threads while the application runs.

    Replaces `using_workdir` of pulpcore's modules that dispatch tasks (seen in 3.115 to 3.123),
    which changes the directory of the whole process.
    """
    make_import_path_absolute()
    modules = [import_module(f"pulpcore.tasking.{name}") for name in ("tasks", "redis_tasks")]
    originals = [_replace(module, "using_workdir", isolated_task) for module in modules]
    try:
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            _replace(module, "using_workdir", original)
        remove_shared_directories()


@asynccontextmanager
async def serialized_schemas() -> AsyncIterator[None]:
    """Generate one OpenAPI schema at a time while the application runs.

    The rest framework keeps the view that it describes in an object of the view's class: schemas
    that are generated side by side are 500, or get operations of each other, which Pulp would
    cache for 100 days.
    """
    generator = import_module("drf_spectacular.generators").SchemaGenerator
    generate: Any = generator.get_schema
    lock = threading.Lock()

    @wraps(generate)
    def get_schema(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return generate(*args, **kwargs)

    _replace(generator, "get_schema", get_schema)
    try:
        yield
    finally:
        _replace(generator, "get_schema", generate)


def _replace(owner: ModuleType | type, name: str, value: object) -> object:
    """Set an attribute and return its old value. Raises AttributeError without one."""
    original: object = getattr(owner, name)
    setattr(owner, name, value)
    return original


@contextmanager
def isolated_task() -> Iterator[None]:
    """Give a task a new current directory and an event loop of its own.

    Not in a coroutine (`adispatch`): what it awaits shares the thread, and so the directory.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        leave_event_loop()
        with temporary_directory():
            yield
    else:
        yield
