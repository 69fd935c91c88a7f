"""An ASGI application that sends files, and tells what was sent without copying, and how."""

import asyncio
import ctypes
import errno
import json
import mmap
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Message, Receive, Scope, Send

from pulpcore.content_star.middleware.conformance import Conformance
from pulpcore.content_star.responses.artifact import ArtifactResponse
from pulpcore.content_star.server import file_range, tls, zero_copy
from pulpcore.content_star.storage.disk import LocalSource

FOLDER = Path(os.environ.get("ZERO_COPY_FOLDER", "."))
SEEN: Counter[str] = Counter()

_libc = ctypes.CDLL(None)
_sendfile, _preadv, _fadvise = os.sendfile, os.preadv, os.posix_fadvise
_read_ahead = file_range._read_ahead


def sendfile(socket: int, fd: int, offset: int, count: int) -> int:
    """Send as `os.sendfile`, and count bytes, and pages for which it had to wait for the disk."""
    raise_if_denied(fd)
    SEEN["cold pages"] += cold_pages(fd, offset, count)
    sent = _sendfile(socket, fd, offset, count)
    SEEN["bytes"] += sent
    return sent


def fadvise(fd: int, offset: int, length: int, advice: int) -> None:
    if advice == os.POSIX_FADV_WILLNEED:
        raise_if_denied(fd)
    _fadvise(fd, offset, length, advice)


def raise_if_denied(fd: int) -> None:
    """Raise the error in the name `denied-ERRNO` of a file, as where a filter denies a call."""
    _, is_denied, code = os.readlink(f"/proc/self/fd/{fd}").rpartition("/denied-")
    if is_denied:
        raise OSError(int(code), os.strerror(int(code)))


def cold_pages(fd: int, offset: int, count: int) -> int:
    """Return how many pages of a part of a file are not in the page cache; 0 if it has no pages."""
    start = offset - offset % mmap.PAGESIZE
    length = offset + count - start
    try:
        # A private mapping that may be written, since ctypes takes no address of others.
        mapping = mmap.mmap(fd, length, access=mmap.ACCESS_COPY, offset=start)
    except (OSError, ValueError):  # of /proc, or shorter
        return 0
    with mapping:
        states = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapping)
        failed = _libc.mincore(ctypes.byref(first), ctypes.c_size_t(length), states)
        del first
        assert not failed
        return sum(not state & 1 for state in states)


def preadv(fd: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
    """Read as `os.preadv`; a page that is not in the cache is never there before a probe ends.

    The probe has the kernel read it: on a busy machine, the disk was faster in 2 of 100 runs.
    """
    is_cold = flags & os.RWF_NOWAIT and cold_pages(fd, offset, 1)
    count = _preadv(fd, buffers, offset, flags)
    if is_cold:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return count


def read_ahead(fd: int, start: int, end: int, stop: int) -> None:
    SEEN["read ahead"] += 1
    _read_ahead(fd, start, end, stop)


os.sendfile, os.preadv, os.posix_fadvise = sendfile, preadv, fadvise
file_range._read_ahead = read_ahead


async def seen(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the counters and the number of open files."""
    await text(send, json.dumps({**SEEN, "open": len(os.listdir("/proc/self/fd"))}))


async def drop(scope: Scope, receive: Receive, send: Send) -> None:
    """Drop a file from the page cache, or `length` bytes of it from `offset` on.

    The whole file is dropped and the rest read again: the kernel keeps a large folio that reaches
    beyond a range, and for a moment one that it is moving.
    """
    query = parse_qs(scope["query_string"].decode())
    offset, length = (int(query.get(name, ["0"])[0]) for name in ("offset", "length"))
    with _path(scope).open("rb", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        os.fsync(fd)
        for _ in range(100):  # pages in the buffer of a socket stay
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if cold_pages(fd, 0, size) * mmap.PAGESIZE >= size:
                break
            await asyncio.sleep(0.01)
        if length:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
            file.read(offset)
            file.seek(offset + length)
            file.read()
    await text(send, "dropped")


async def file(scope: Scope, receive: Receive, send: Send) -> None:
    path = _path(scope)
    response = ArtifactResponse(
        LocalSource(str(path)),
        size=path.stat().st_size,
        sha256="0" * 64,
        last_modified=None,
        filename=path.name,
    )
    await response(scope, receive, send)


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a part of any file in one message, with a length only if one is asked for."""
    query = parse_qs(scope["query_string"].decode())
    headers = []
    if "length" in query:
        headers.append((b"content-length", query["length"][0].encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    message: Message = {"type": zero_copy.ZERO_COPY}
    for name in ("offset", "count"):
        if name in query:
            message[name] = int(query[name][0])
    with Path(query["path"][0]).open("rb") as file:  # noqa: ASYNC230
        await send({**message, "file": file})


async def text(send: Send, body: str) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


def _path(scope: Scope) -> Path:
    return FOLDER / scope["path"].rpartition("/")[2]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        kind = scope["path"].split("/")[1]
        apps = {"file": file, "raw": raw, "drop": drop}
        with suppress(FileNotFoundError):
            return await apps.get(kind, seen)(scope, receive, send)
        await text(send, "missing")


async def on_old_kernel(scope: Scope, receive: Receive, send: Send) -> None:
    """As `app`, on a kernel without the option for the state of a socket."""
    tls._SO_MEMINFO = 12345
    await app(scope, receive, send)


app = Conformance(application)
compressed = GZipMiddleware(app)
