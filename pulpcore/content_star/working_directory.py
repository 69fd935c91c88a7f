"""Where relative paths lead in the threads that run plugins' code.

Upstream's content app changes to `WORKING_DIRECTORY`, and plugins rely on it: pulp_gem makes a file
in `.` for each gem that it saves. This process is the API's too, and where it was started may be a
directory that it cannot write to.
"""

import ctypes
import logging
import os

from django.conf import settings

log = logging.getLogger(__name__)

_CLONE_FS = 0x200  # sched.h; `os.CLONE_FS` since Python 3.12


def enter_working_directory() -> None:
    """Make `WORKING_DIRECTORY` the current directory of this thread, and of no other.

    Only Linux has that, and some containers do not allow it; then the thread stays where it is.
    """
    try:
        _have_own_directory()
        os.chdir(settings.WORKING_DIRECTORY)
    except (AttributeError, OSError) as error:
        log.debug("Relative paths lead to %s: %s", os.curdir, error)


def _have_own_directory() -> None:
    """Share the current directory with no thread any more; unshare(2). Raises AttributeError where
    there is no such call, OSError where it is refused."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS):
        raise OSError(ctypes.get_errno(), "unshare")
