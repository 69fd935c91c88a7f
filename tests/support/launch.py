"""Run a program in a directory, or without unshare(2): `launch.py [--cwd DIRECTORY] [--no-unshare]
PROGRAM ARGUMENT...`, where the program is a path."""

import argparse
import ctypes
import os
import platform
import struct

# prctl.h, seccomp.h, filter.h
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000
EPERM = 1
UNSHARE = {"x86_64": 272, "aarch64": 97}


def refuse_unshare() -> None:
    """Make unshare(2) fail with EPERM, as Docker's default seccomp profile does."""
    instructions = [
        (LOAD, 0, 0, 0),  # the number of the call
        (JUMP_IF_EQUAL, 0, 1, UNSHARE[platform.machine()]),
        (RETURN, 0, 0, FAIL | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")
    assert libc.unshare(0x200) == -1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cwd", default=".")
    parser.add_argument("--no-unshare", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    os.chdir(options.cwd)
    if options.no_unshare:
        refuse_unshare()
    os.execv(options.command[0], options.command)
