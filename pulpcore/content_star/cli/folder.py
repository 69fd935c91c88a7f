"""A folder of files on this machine: what can be served from it, and what has to be left out."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class File:
    """A regular file and its place in the repository."""

    path: Path
    relative_path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Skipped:
    """Something that was left out."""

    relative_path: str
    reason: str
    is_file: bool
    """Whether somebody who adds the folder would expect it to be served."""


@dataclass
class Folder:
    """The files below a directory, by relative path, and what is left out of them."""

    files: dict[str, File] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def is_unknown(self, relative_path: str) -> bool:
        """Whether we could not see if there is such a file: it, or a directory, is unreadable."""
        return any(
            f"{relative_path}/".startswith(f"{skipped.relative_path}/")
            for skipped in self.skipped
            if skipped.is_file
        )

    def skip(self, relative_path: str, reason: str, is_file: bool = True) -> None:
        """Leave something out."""
        self.skipped.append(Skipped(relative_path, reason, is_file))


def scan(directory: Path) -> Folder:
    """Find the files below a directory, without reading them."""
    folder = Folder()
    for entry in _walk(directory, "", folder):
        relative_path = os.path.relpath(entry.path, directory)
        if reason := _unusable_name(relative_path):
            folder.skip(relative_path, reason)
            continue
        size = entry.stat(follow_symlinks=False).st_size
        folder.files[relative_path] = File(Path(entry.path), relative_path, size)
    return folder


def hash_files(folder: Folder, on_bytes: Callable[[int], object]) -> None:
    """Fill in the digests; a file that cannot be read is left out."""
    for relative_path, file in list(folder.files.items()):
        try:
            with open_file(file.path) as stream:
                size, sha256 = _digest(stream, on_bytes)
        except OSError as error:
            del folder.files[relative_path]
            folder.skip(relative_path, error.strerror or str(error))
        else:
            folder.files[relative_path] = File(file.path, relative_path, size, sha256)


def open_file(path: Path) -> BinaryIO:
    """Open a file that was found by `scan`, refusing what has become a symlink since."""
    return open(path, "rb", opener=_without_following)


def printable(relative_path: str) -> str:
    """A name as it can be shown: control characters and stray bytes are escaped."""
    return relative_path if relative_path.isprintable() else ascii(relative_path)


def human_size(number: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _walk(directory: Path, prefix: str, folder: Folder) -> Iterator[os.DirEntry[str]]:
    """The regular files below a directory, in order; the rest is left out."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        folder.skip(prefix.rstrip("/"), error.strerror or str(error))
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", folder)
        elif entry.is_file(follow_symlinks=False):
            yield entry
        else:
            kind = "symbolic link" if entry.is_symlink() else "not a regular file"
            folder.skip(prefix + entry.name, kind, is_file=False)


def _unusable_name(relative_path: str) -> str | None:
    """Why Pulp cannot serve a file of this name, if it cannot."""
    try:
        relative_path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if len(relative_path.splitlines()) > 1:
        return "its name has a line break"
    if relative_path != relative_path.strip():
        return "its name begins or ends with a space, which Pulp drops"
    if relative_path.startswith("#"):
        return "its name begins with #, which Pulp takes for a comment"
    return None


def _digest(stream: BinaryIO, on_bytes: Callable[[int], object]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        on_bytes(len(chunk))
    return size, digest.hexdigest()


def _without_following(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no longer a regular file")
    return descriptor
