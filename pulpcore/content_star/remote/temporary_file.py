"""Temporary files that are known to be abandoned when their process is gone, however it ended.

Each is locked (`flock`) as long as someone has it open. Everything here blocks.
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

# Seconds without a change after which a file on a network file system is nobody's. Locks need not
# be seen by other hosts there, and every fetch writes a few times a minute or is given up.
STALE = 3600.0


def create(directory: str) -> tuple[int, str]:
    """Make a file and return its descriptor and path. Raises OSError."""
    while True:
        fd, path = tempfile.mkstemp(prefix=PREFIX, dir=directory)
        # Another process may have taken it for an abandoned one before it was locked.
        if lock(fd) and os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)


def lock(fd: int) -> bool:
    """Say that the file has an owner. False if another has locked it; true where locks are not to
    be had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_abandoned(directory: str) -> None:
    """Remove what processes that are gone have left. What cannot be removed is logged."""
    for path in Path(directory).glob(f"{PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s cannot be looked at: %s", path, os.strerror(error.errno or 0))
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
