"""Detect local file systems, where opening and reading a file seldom blocks."""

import ctypes
import sys

# Magic numbers of Linux, from <linux/magic.h> and headers of file systems, of the local ones only:
# to take a local one for remote costs a thread, to take a remote one for local lets a hung server
# block the process. FUSE is not included, since it may be remote.
_LOCAL = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xCA451A4E,  # bcachefs
        0x2FC12FC1,  # zfs
        0xF2F52010,  # f2fs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlayfs
        0x73717368,  # squashfs
        0xE0F5E1E2,  # erofs
    }
)

# Bytes; more than struct statfs has on any architecture.
_STATFS_SIZE = 512

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def is_local(fd: int) -> bool:
    """Return whether the open file `fd` is on a known local file system; False if not on Linux.

    Calls fstatfs. /proc/self/mountinfo would have to be matched by device number, which btrfs and
    overlayfs make up per file, and to be read again after each change of a mount.
    """
    if _libc is None:
        return False
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(fd, buffer) != 0:
        return False
    # f_type is the first member, a long or an int. Its low half is in the first four bytes on all
    # architectures that Pulp runs on; elsewhere the result is False.
    return int.from_bytes(buffer.raw[:4], sys.byteorder) in _LOCAL
