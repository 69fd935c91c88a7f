"""Where relative paths lead in the threads that run plugins' code.

Upstream's content app changes to `WORKING_DIRECTORY`, and plugins rely on it: pulp_gem and
pulp_python make a file in `.` for each one that they save. This process is the API's too, and where
it was started may be a directory that it cannot write to.
"""

import ctypes
import logging
import os
from functools import cache

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
    except (AttributeError, OSError):
        _warn()


@cache
def _warn() -> None:
    """Tell once what may not work, where that is so."""
    if not os.access(os.curdir, os.W_OK):
        log.warning(
            "Plugins that write to the current directory cannot save what is pulled through: start "
            "this process in WORKING_DIRECTORY, or in any directory that it can write to."
        )


def _have_own_directory() -> None:
    """Share the current directory with no thread any more; unshare(2). Raises AttributeError where
    there is no such call, OSError where it is refused."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS):
        raise OSError(ctypes.get_errno(), "unshare")
