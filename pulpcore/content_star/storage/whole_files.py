"""Save files to local storages completely, or not at all.

pulpcore's `FileSystem` copies a file that it cannot move, such as from another disk. Where that
fails, as on a full disk, the beginning of the file is left behind under its final name, and
pulpcore takes the next artifact with the same digest for stored already.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from django.core.files import locks
from django.core.files.base import File
from django.core.files.storage import Storage
from django.db.models import FileField
from django.db.models.signals import post_init, pre_save

from pulpcore.plugin.models import UploadChunk

# Seconds after which a part of a file that is not being written counts as left by a crash: it is
# locked an instant after it is created.
ABANDONED = 60.0


@contextmanager
def whole_files() -> Iterator[None]:
    """Save files of models completely or not at all in this process, until the block ends."""
    pre_save.connect(_use_whole_files)
    post_init.connect(_use_whole_files, UploadChunk)  # stores its file before it is saved
    try:
        yield
    finally:
        pre_save.disconnect(_use_whole_files)
        post_init.disconnect(_use_whole_files, UploadChunk)


class WholeFiles:
    """A storage whose `save` leaves no part of a file behind. All else is as in `storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def save(self, name: str, content: "File[Any]", max_length: int | None = None) -> str:
        """Save as `Storage.save`. Raises OSError, also if the disk was full at the very end."""
        path = self._path(name)
        if path is None:
            return self._storage.save(name, content, max_length=max_length)
        size = content.size
        _remove_part(path, size, ABANDONED)
        # A file that exists is another's, who may be about to lock it.
        seconds = ABANDONED if path.exists() else 0.0
        try:
            saved = self._storage.save(name, content, max_length=max_length)
        except OSError:
            _remove_part(path, size, seconds)
            raise
        if not path.exists() or _remove_part(path, size, seconds):  # `os.write` may write less
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return saved

    def _path(self, name: str) -> Path | None:
        """Return the path of a file whose name the storage does not change, or None."""
        try:
            path = Path(self._storage.path(name))
        except NotImplementedError:  # an object store, which has no parts of files
            return None
        return path if self._storage.get_available_name(name) == name else None


def _remove_part(path: Path, size: int, seconds: float) -> bool:
    """Remove a file of less than `size` bytes; return whether there was one.

    Not if it is being written, for which Django locks it, or was in the last `seconds`.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            is_recent = time.time() - status.st_mtime < seconds
            if status.st_size >= size or is_recent:
                return False
            if not locks.lock(file, locks.LOCK_EX | locks.LOCK_NB):
                return False
            path.unlink()
    except OSError:  # no file, or a file system without locks
        return False
    return True


def _use_whole_files(sender: Any, instance: Any, **kwargs: Any) -> None:
    for name in _file_fields(sender):
        # A field that is not loaded is not saved either.
        file = getattr(instance, name) if name in vars(instance) else None
        if file is not None and not isinstance(file.storage, WholeFiles):
            file.storage = WholeFiles(file.storage)


@cache
def _file_fields(model: Any) -> tuple[str, ...]:
    return tuple(
        field.attname for field in model._meta.concrete_fields if isinstance(field, FileField)
    )
