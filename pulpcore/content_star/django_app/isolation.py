"""Isolation of views and immediate tasks: working directory, umask and event loop per thread.

pulpcore was written for single-threaded processes without an event loop (gunicorn's sync workers).
Here each view runs in a thread, and asgiref would run its coroutines on the server's event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from pulpcore.content_star.database.executor import leave_event_loop
from pulpcore.content_star.database.working_directory import (
    enter_working_directory,
    make_import_path_absolute,
    remove_shared_directories,
    temporary_directory,
)


def enter_view_thread() -> None:
    """Prepare the current thread for a Django view; call it before each view.

    Relative paths resolve to `WORKING_DIRECTORY`, and the umask is the thread's own.
    """
    enter_working_directory()
    leave_event_loop()


@asynccontextmanager
async def isolated_tasks() -> AsyncIterator[None]:
    """Isolate immediate tasks from other threads while the application runs.

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
    that are generated concurrently fail with 500, or have operations of each other, which Pulp
    would cache for 100 days.
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
    """Run a task in a new temporary directory, with an event loop of its own.

    Not in a coroutine (`adispatch`): other tasks share its thread, and so the directory.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        leave_event_loop()
        with temporary_directory():
            yield
    else:
        yield
