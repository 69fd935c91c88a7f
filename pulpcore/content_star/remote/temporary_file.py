"""Temporary files that are recognized as abandoned once their process has ended, in any way.

Each is locked with `flock` while it is open. Everything here blocks.
"""

import fcntl
import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pulpcore.content_star.storage.filesystem import is_local

log = logging.getLogger(__name__)

PREFIX = "content-star-"

# Seconds without a change after which a file on a network file system counts as abandoned. Other
# hosts may not see its lock, and every fetch writes a few times a minute or is cancelled.
STALE = 3600.0


def create(directory: str) -> tuple[int, str]:
    """Create and lock a file; return its descriptor and path. Raises OSError."""
    while True:
        fd, path = tempfile.mkstemp(prefix=PREFIX, dir=directory)
        # Another process may have removed it as abandoned before it was locked.
        if lock(fd) and os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)


def lock(fd: int) -> bool:
    """Lock the file; False if another process has locked it, True if locks are unsupported."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_abandoned(directory: str) -> None:
    """Remove the abandoned files in `directory`. Logs files that cannot be opened."""
    for path in Path(directory).glob(f"{PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning(
                "Temporary file %s cannot be checked: %s. Remove it if no process uses it.",
                path,
                os.strerror(error.errno or 0),
            )
            continue
        try:
            if _is_abandoned(fd):
                with suppress(FileNotFoundError):
                    path.unlink()
        finally:
            os.close(fd)


def _is_abandoned(fd: int) -> bool:
    if not is_local(fd) and time.time() - os.fstat(fd).st_mtime < STALE:
        return False
    return lock(fd)
