"""Current directories of threads.

Linux has the current directory and the umask in one structure (`fs_struct`) that all threads of a
process share, unless one takes a copy: unshare(CLONE_FS). Upstream's services have one thread each
and change both as they like. Here the API and content share a process: each thread that runs
plugins' code, or Django's views, takes a copy. Threads that it starts share that copy with it.
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

# Seconds for which a directory that the whole process was in is kept: other threads may have made
# files by relative paths in it that they still use.
KEEP = 3600.0

# Seconds to wait for another thread to leave its directory, where threads cannot have their own. An
# immediate task takes 5 at most. Waiting for ever could be a deadlock: the other thread may need a
# row that this one's transaction has locked.
TURN_TIMEOUT = 60.0

_thread = threading.local()
_turn = threading.RLock()  # a task may run another one in its own thread
_kept: deque[tuple[float, str]] = deque()


def enter_working_directory() -> None:
    """Make `WORKING_DIRECTORY` the current directory of this thread, and of no other.

    pulp_gem and pulp_python make a file in `.` for each one that they save. Where threads cannot
    have directories of their own, or there is no such directory, the thread stays where it is.
    """
    if not has_own_directory():
        _warn()
        return
    try:
        os.chdir(settings.WORKING_DIRECTORY)
    except OSError as error:
        log.error("WORKING_DIRECTORY cannot be entered, create it or give access to it: %s", error)


def has_own_directory() -> bool:
    """Give this thread a current directory and a umask of its own, unless it has them already.

    Returns False where that is refused: on other systems than Linux, and in containers whose
    seccomp profile has no `unshare` (Docker's default).
    """
    if not getattr(_thread, "has_own_directory", False):
        try:
            _unshare()
        except (AttributeError, OSError):
            return False
        _thread.has_own_directory = True
    return True


def _unshare() -> None:
    """Call unshare(2). Raises AttributeError where there is none, OSError where it is refused."""
    if _libc().unshare(_CLONE_FS):
        raise OSError(ctypes.get_errno(), "unshare")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _warn() -> None:
    """Log once which code cannot work, where the current directory is shared and not writable."""
    if not os.access(os.curdir, os.W_OK):
        log.warning(
            "Plugins that write to the current directory cannot save what is pulled through: start "
            "this process in WORKING_DIRECTORY, or in any directory that it can write to."
        )


@contextmanager
def temporary_directory() -> Iterator[None]:
    """Make a new directory below `WORKING_DIRECTORY` the current one for a `with` block.

    Where threads cannot have directories of their own, the whole process enters it, for one thread
    after the other. Raises OSError if it cannot be made.
    """
    if has_own_directory():
        with (
            TemporaryDirectory(
                dir=settings.WORKING_DIRECTORY, ignore_cleanup_errors=True
            ) as directory,
            _inside(directory),
        ):
            yield
    elif _turn.acquire(timeout=TURN_TIMEOUT):
        try:
            with _inside(_make_kept_directory()):
                yield
        finally:
            _turn.release()
    else:
        log.warning(
            "Another thread has kept the process in its directory for over %d s; running a task "
            "without a directory of its own.",
            TURN_TIMEOUT,
        )
        yield


def working_directory_problem() -> str | None:
    """Return why no task can run in this process, or None. Blocks.

    A process whose current directory has been removed changes to `WORKING_DIRECTORY`. Threads that
    took a copy of it are not concerned.
    """
    if not os.access(settings.WORKING_DIRECTORY, os.W_OK | os.X_OK):
        return "WORKING_DIRECTORY is missing or cannot be written to: no task can run."
    _leave_removed_directory()
    return None


def make_import_path_absolute() -> None:
    """Resolve relative entries of `sys.path`, as gunicorn does.

    uvicorn inserts "", which is the current directory of the thread that imports: what a task or
    plugin writes to its own must not be imported.
    """
    sys.path[:] = map(os.path.abspath, sys.path)


def remove_kept_directories(older_than: float = 0) -> None:
    """Remove the directories that the process has been in, but for those of the last seconds."""
    while _kept and time.monotonic() - _kept[0][0] >= older_than:
        shutil.rmtree(_kept.popleft()[1], ignore_errors=True)


def _make_kept_directory() -> str:
    remove_kept_directories(KEEP)
    directory = mkdtemp(dir=settings.WORKING_DIRECTORY)
    _kept.append((time.monotonic(), directory))
    return directory


@contextmanager
def _inside(directory: str) -> Iterator[None]:
    _leave_removed_directory()
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        _return_to(before)


def _return_to(directory: Path | str) -> None:
    """Leave a directory that is going to be removed, for one that is still there."""
    for each in (directory, settings.WORKING_DIRECTORY, "/"):
        with suppress(OSError):
            return os.chdir(each)


def _leave_removed_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        log.warning(
            "The current directory has been removed, which an operator or a plugin did; changing to"
            " %s.",
            settings.WORKING_DIRECTORY,
        )
        os.chdir(settings.WORKING_DIRECTORY)
