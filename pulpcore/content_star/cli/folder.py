"""Scan of a local folder: files that Pulp can serve, and skipped entries with the reason."""

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
    """A regular file and its relative path in the repository."""

    path: Path
    relative_path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Skipped:
    """An entry that is not served."""

    relative_path: str
    reason: str
    is_file: bool
    """Whether the user would expect it to be served: a file, or a directory of files."""


@dataclass
class Folder:
    """Files below a directory, by relative path, and skipped entries."""

    files: dict[str, File] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def is_unknown(self, relative_path: str) -> bool:
        """Return whether the file may exist, since it or a directory above it was unreadable."""
        return any(
            f"{relative_path}/".startswith(f"{skipped.relative_path}/")
            for skipped in self.skipped
            if skipped.is_file
        )

    def skip(self, relative_path: str, reason: str, is_file: bool = True) -> None:
        """Add a skipped entry."""
        self.skipped.append(Skipped(relative_path, reason, is_file))


def scan(directory: Path) -> Folder:
    """Return the files below a directory, without reading them."""
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
    """Set the SHA-256 digests and sizes; unreadable files are skipped."""
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
    """Open a file that `scan` found. Raises OSError if it is a symbolic link by now."""
    return open(path, "rb", opener=_open_no_follow)


def printable(relative_path: str) -> str:
    """Return a name with control characters and undecodable bytes escaped, for a terminal."""
    return relative_path if relative_path.isprintable() else ascii(relative_path)


def human_size(number: float) -> str:
    """Return a number of bytes with a binary unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _walk(directory: Path, prefix: str, folder: Folder) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files below a directory in order; other entries are skipped."""
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
    """Return the reason why Pulp cannot serve a file of this name, None if it can."""
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


def _open_no_follow(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no longer a regular file")
    return descriptor
