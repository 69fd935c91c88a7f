"""A small file system that tests fill: a tmpfs, which takes root to mount."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A file system at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert not self.free()

    def clear(self) -> None:
        """Free what `fill` has taken."""
        self._filler.unlink()

    def free(self) -> int:
        """Return the free bytes."""
        return shutil.disk_usage(self.path).free


@contextmanager
def small_disk(size: int) -> Iterator[SmallDisk]:
    """Mount a file system of `size` bytes; skip the test if that is not possible."""
    if os.geteuid():
        pytest.skip("mounting a file system takes root")
    path = Path(tempfile.mkdtemp(prefix="disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", path]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"mounting a file system is not allowed: {mounted.stderr}")
        try:
            yield SmallDisk(path)
        finally:
            # Lazily: a process that ends may still have an open file there.
            subprocess.run(["umount", "--lazy", path], check=True)
    finally:
        path.rmdir()
