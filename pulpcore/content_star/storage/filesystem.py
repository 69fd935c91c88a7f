"""Whether a file lies on a file system of this machine, where opening and reading seldom wait."""

import ctypes
import sys

# Linux, <linux/magic.h> and the file systems' own headers. A list of the local ones rather than of
# the remote ones: to take a local one for remote costs a thread, the other way round a hung server
# would stop every request of the process. FUSE is not here, since anything may be behind it.
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

# Larger than struct statfs is anywhere.
_STATFS_SIZE = 512

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def is_local(fd: int) -> bool:
    """Whether the open file `fd` is known to lie on a local file system; False off Linux.

    Asks the kernel about this very file. /proc/self/mountinfo would have to be matched by device
    number, which btrfs and overlayfs make up per file, and read again whenever a mount changes.
    """
    if _libc is None:
        return False
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(fd, buffer) != 0:
        return False
    # f_type comes first. It is a long on most machines and an int on some; its low half is in the
    # first four bytes on all that Pulp runs on, and elsewhere the answer would be "not known".
    return int.from_bytes(buffer.raw[:4], sys.byteorder) in _LOCAL
