"""Add pulled-through content to a repository. Blocks; runs in a database executor."""

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from threading import Lock
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from cachetools import TTLCache

from pulpcore.plugin.models import ContentArtifact, Repository

# Seconds between two requests to add a file to a repository, however many clients want it: until a
# worker has added it, each request would dispatch another task.
REQUEST_INTERVAL = 30

# Maximum number of claims in memory.
MAX_REQUESTED = 10_000

_requested: TTLCache[tuple[UUID, UUID], None] = TTLCache(MAX_REQUESTED, REQUEST_INTERVAL)
_requested_lock = Lock()


def claim(repository: UUID, file: ContentArtifact) -> bool:
    """Claim the task of adding the content of `file` to `repository`.

    Returns False if this process has claimed it within REQUEST_INTERVAL seconds.
    """
    with _requested_lock:
        if (repository, file.content_id) in _requested:
            return False
        _requested[repository, file.content_id] = None
    return True


def _unclaim(repository: UUID, file: ContentArtifact) -> None:
    with _requested_lock:
        _requested.pop((repository, file.content_id), None)


def add_to_repository(repository: UUID, file: ContentArtifact) -> None:
    """Add the content of `file` to `repository` by the plugin's method, which dispatches a task.

    Requires `claim`, which a failure reverts. Idempotent: a repository has each content once.
    """
    try:
        _add(repository, file)
    except BaseException:
        _unclaim(repository, file)
        raise


def _add(repository: UUID, file: ContentArtifact) -> None:
    target = Repository.objects.get(pk=repository).cast()
    token = _defers_tasks.set(True)
    try:
        # Upstream calls the async method, whose default implementation equals the sync one.
        if _overrides(target, "async_pull_through_add_content"):
            async_to_sync(target.async_pull_through_add_content)(file)
        else:
            target.pull_through_add_content(file)
    finally:
        _defers_tasks.reset(token)


def _overrides(target: Repository, method: str) -> bool:
    return getattr(type(target), method) is not getattr(Repository, method)


# pulpcore runs immediate tasks in the API process itself, in a working directory that it changes
# to, which would affect other threads that serve content. Upstream's content app leaves such tasks
# to workers too.
_defers_tasks: ContextVar[bool] = ContextVar("content_star_leaves_to_workers", default=False)


@cache
def leave_tasks_to_workers() -> None:
    """Make content requests leave their tasks to workers; the application calls it at its start.

    Replaces `called_from_content_app` of pulpcore's modules that dispatch tasks (3.115 to 3.123).
    """
    for name in ("tasks", "redis_tasks"):
        with suppress(ImportError):  # older versions have fewer kinds of workers
            module: Any = import_module(f"pulpcore.tasking.{name}")
            is_content = module.called_from_content_app
            module.called_from_content_app = partial(_is_deferred, is_content)


def _is_deferred(is_content: Callable[[], bool]) -> bool:
    return _defers_tasks.get() or is_content()
