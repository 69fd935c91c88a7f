"""Ownership and permission checks of the state directory, as in OpenSSH's StrictModes.

A state directory has settings that are executed, a URL that a password is sent to, and files that
are overwritten: no other user may be able to change them. The checks use open descriptors. As no
other user can change a directory of the path, it still names the checked file afterwards.
"""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click


def check_parents(path: Path) -> None:
    """Check that no other user can rename or replace a directory above a path.

    A sticky directory like /tmp is accepted, as only the owner of an entry can rename it.

    Raises:
        click.ClickException: a directory above belongs to another user, or others can write to it.
    """
    for directory in path.parents:
        try:
            status = directory.stat()
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            return  # creating the path fails with a better message
        if status.st_uid not in (0, os.geteuid()):
            raise _refused(directory, f"belongs to {_user(status.st_uid)}", "choose another --home")
        if _others_write(status) and not status.st_mode & stat.S_ISVTX:
            raise _refused(directory, _writable(status), f"chmod go-w {directory}")


@contextmanager
def directory_opened(path: Path) -> Iterator[int]:
    """Open a directory, and check that no other user owns it or can write to it."""
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        _check(path, os.fstat(descriptor), os.geteuid())
        yield descriptor


@contextmanager
def file_opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file without following a link, check its owner, and restrict its permissions."""
    with _opened(path, flags | os.O_NONBLOCK) as descriptor:  # opening a FIFO must not block
        status = os.fstat(descriptor)
        _check(path, status, os.geteuid())
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "is not a regular file", "remove it")
        if status.st_mode & 0o077:
            os.fchmod(descriptor, status.st_mode & 0o700)
        yield descriptor


def read_text(path: Path) -> str:
    """Return the text of a file after checking its owner."""
    with file_opened(path) as descriptor, os.fdopen(descriptor, closefd=False) as file:
        return file.read()


def check_entries(directory: Path, owners: dict[str, int], nested: Iterable[str] = ()) -> None:
    """Check the owners of the files and directories in a directory; links are refused.

    Args:
        directory: A directory that has been checked itself.
        owners: User ids of entries that the current user does not own.
        nested: Names of subdirectories whose entries are checked as well.
    """
    with directory_opened(directory) as descriptor:
        for name in os.listdir(descriptor):  # noqa: PTH208 - of a descriptor, not a path
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:  # a running `up` has just replaced it
                continue
            _check(directory / name, status, owners.get(name, os.geteuid()))
            if name in nested:
                check_entries(directory / name, {})


def check_owner(path: Path, owner: int) -> None:
    """Check that a file or directory belongs to a user, and that no other can write to it."""
    _check(path, path.lstat(), owner)


def create(path: Path) -> BinaryIO:
    """Create a private file, open for appending. Raises FileExistsError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "ab")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise _link(path) from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(path: Path, status: os.stat_result, owner: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _link(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise _refused(path, "is neither a file nor a directory", "remove it")
    if status.st_uid != owner:
        raise _refused(
            path,
            f"belongs to {_user(status.st_uid)}, not to {_user(owner)}",
            f"run pulp-star as {_user(status.st_uid)}, or choose another directory with --home",
        )
    if _others_write(status):
        raise _refused(path, _writable(status), f"look at its contents, then chmod go-w {path}")


def _others_write(status: os.stat_result) -> bool:
    """Return whether a user other than the owner and root can write.

    A private group of the owner is accepted: many systems create one per user, with umask 002.
    """
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status)


def _is_private_group(status: os.stat_result) -> bool:
    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    own = group.gr_gid == user.pw_gid and group.gr_name == user.pw_name
    return own and set(group.gr_mem) <= {user.pw_name}


def _writable(status: os.stat_result) -> str:
    return f"can be changed by other users (mode {stat.S_IMODE(status.st_mode) & 0o7777:04o})"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def _link(path: Path) -> click.ClickException:
    return _refused(path, "is a symbolic link", "name a real directory, or remove the link")


def _refused(path: Path, reason: str, remedy: str) -> click.ClickException:
    return click.ClickException(f"{path} cannot be trusted, because it {reason}: {remedy}.")
