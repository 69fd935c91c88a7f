"""Current directories per thread, for plugins and tasks that write to their working directory.

On Linux, all threads of a process share the current directory and the umask (`fs_struct`), unless a
thread unshares them: unshare(CLONE_FS). Upstream's services change both, as each has one thread.
Here the API and content share a process, so each thread that runs plugins' code or Django's views
unshares them. Threads that it starts share its directory.
"""

import ctypes
import logging
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from django.conf import settings

log = logging.getLogger(__name__)

_CLONE_FS = 0x200  # sched.h; `os.CLONE_FS` since Python 3.12

# Seconds before a temporary directory that the whole process was in is removed: other threads may
# still use files that they created in it by relative paths.
REMOVAL_DELAY = 3600.0

# Seconds to wait for the lock on the process's directory, where threads cannot have their own. An
# immediate task takes 5 at most. Without a timeout there could be a deadlock: the other thread may
# need a row that this one's transaction has locked.
LOCK_TIMEOUT = 60.0

_thread = threading.local()
_lock = threading.RLock()  # reentrant: a task may run another one in its own thread
_shared_directories: deque[tuple[float, str]] = deque()


def enter_working_directory() -> None:
    """Make `WORKING_DIRECTORY` the current directory of this thread only.

    pulp_gem and pulp_python create a file in `.` for each file that they save. Does nothing where
    threads cannot have directories of their own; logs an error if the directory cannot be entered.
    """
    if not has_own_directory():
        _warn_if_not_writable()
        return
    try:
        os.chdir(settings.WORKING_DIRECTORY)
    except OSError as error:
        log.error("Cannot enter WORKING_DIRECTORY, create it or grant access to it: %s", error)


def has_own_directory() -> bool:
    """Unshare the current directory and the umask of this thread; return whether it has its own.

    False without CONTENT_STAR_UNSHARE, on other systems than Linux, and in containers whose seccomp
    profile denies `unshare` (Docker's default).
    """
    if not settings.CONTENT_STAR_UNSHARE:
        return False
    if not getattr(_thread, "has_own_directory", False):
        try:
            _unshare()
        except (AttributeError, OSError):
            return False
        _thread.has_own_directory = True
    return True


def _unshare() -> None:
    """Call unshare(2). Raises AttributeError where it is missing, OSError where it is denied."""
    if _libc().unshare(_CLONE_FS):
        raise OSError(ctypes.get_errno(), "unshare")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _warn_if_not_writable() -> None:
    """Log once that plugins cannot write to the shared current directory, if that is so."""
    if not os.access(os.curdir, os.W_OK):
        log.warning(
            "The current directory is not writable, so plugins that write to it cannot save files "
            "of pull-through: start this process in WORKING_DIRECTORY or in a writable directory."
        )


@contextmanager
def temporary_directory() -> Iterator[None]:
    """Run a `with` block in a new directory below `WORKING_DIRECTORY`.

    Where threads cannot have directories of their own, the whole process enters it; a lock lets one
    thread at a time do so. Raises OSError if the directory cannot be created.
    """
    if has_own_directory():
        with (
            TemporaryDirectory(
                dir=settings.WORKING_DIRECTORY, ignore_cleanup_errors=True
            ) as directory,
            _changed_directory(directory),
        ):
            yield
    elif _lock.acquire(timeout=LOCK_TIMEOUT):
        try:
            with _changed_directory(_make_shared_directory()):
                yield
        finally:
            _lock.release()
    else:
        log.warning(
            "Working directory: locked by a task in another thread for over %d s; running a task "
            "without a directory of its own.",
            LOCK_TIMEOUT,
        )
        yield


def working_directory_problem() -> str | None:
    """Return why this process cannot run tasks, or None. Blocks.

    Changes to `WORKING_DIRECTORY` if the current directory of the calling thread has been removed.
    """
    if not os.access(settings.WORKING_DIRECTORY, os.W_OK | os.X_OK):
        return "WORKING_DIRECTORY is missing or cannot be written to: no task can run."
    _leave_removed_directory()
    return None


def make_import_path_absolute() -> None:
    """Make the entries of `sys.path` absolute, as gunicorn does.

    uvicorn inserts "", the current directory of the thread that imports: files that a task or
    plugin writes there must not be imported.
    """
    sys.path[:] = map(os.path.abspath, sys.path)


def remove_shared_directories(older_than: float = 0) -> None:
    """Remove temporary directories that the whole process was in over `older_than` seconds ago."""
    while _shared_directories and time.monotonic() - _shared_directories[0][0] >= older_than:
        shutil.rmtree(_shared_directories.popleft()[1], ignore_errors=True)


def _make_shared_directory() -> str:
    remove_shared_directories(REMOVAL_DELAY)
    directory = mkdtemp(dir=settings.WORKING_DIRECTORY)
    _shared_directories.append((time.monotonic(), directory))
    return directory


@contextmanager
def _changed_directory(directory: str) -> Iterator[None]:
    _leave_removed_directory()
    previous = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        _return_to(previous)


def _return_to(directory: Path | str) -> None:
    """Change to `directory` or, if it has been removed, to one that exists."""
    for path in (directory, settings.WORKING_DIRECTORY, "/"):
        with suppress(OSError):
            return os.chdir(path)


def _leave_removed_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        log.warning(
            "Current directory was removed, by an operator or a plugin; changing to %s.",
            settings.WORKING_DIRECTORY,
        )
        os.chdir(settings.WORKING_DIRECTORY)
