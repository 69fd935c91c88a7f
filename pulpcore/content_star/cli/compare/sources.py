"""Sources of requests: lists of URLs and access logs. That of the REST API is in `api.py`."""

import asyncio
import gzip
import io
import os
import sys
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote, urlsplit

from pulpcore.content_star.cli.compare.access_log import MASKED, parse_line
from pulpcore.content_star.cli.compare.errors import CannotCompare
from pulpcore.content_star.cli.compare.exchange import Request
from pulpcore.content_star.cli.compare.shell import masked_text

STANDARD_INPUT = Path("-")

_MAX_LINE = 256 * 1024
"""Bytes of the longest line that is read."""

_TOO_LONG = f"lines of over {_MAX_LINE // 1024} KiB"

_LINES_TO_RECOGNIZE = 1000
"""Lines after which a log without any request is one in another format."""

_LINES_AT_ONCE = 1000
"""Lines that are read before requests under way and signals have their turn."""

_URL_SAFE = "%/:?#[]@!$&'()*+,;=~"


@dataclass(frozen=True)
class Item:
    """A request to compare."""

    request: Request
    with_variants: bool = True
    """Whether HEAD, a range and a conditional request are made of it, beside the GET."""


class Source(Protocol):
    """A sequence of items that is the same each time."""

    skipped: Counter[str]
    """Number of paths that are left out, by reason."""

    @property
    def total(self) -> int:
        """Units of work, for the progress bar; 0 if it is not known."""
        ...

    @property
    def done(self) -> int:
        """Units that are done."""
        ...

    def items(self) -> AsyncIterator[Item]:
        """Yield the items."""
        ...


class _Lines:
    """Lines of files, the compressed ones too, with the position in them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.too_long = 0
        """Lines that were not read, in whose place an empty one stands."""
        self.done = 0
        self.total = 0
        if STANDARD_INPUT not in paths:
            self.total = sum(_size(path) for path in paths)

    async def __aiter__(self) -> AsyncIterator[str]:
        for path in self.paths:
            before, number = self.done, 0
            with _opened(path) as (lines, raw):
                while line := await _readline(path, lines):
                    if is_too_long := _is_cut(line):
                        self.too_long += 1
                    while _is_cut(line):
                        await asyncio.sleep(0)
                        line = await _readline(path, lines)
                    self.done = before + (raw.tell() if raw.seekable() else 0)
                    text = b"" if is_too_long else line
                    yield text.decode("utf-8", "surrogateescape").rstrip("\r\n")
                    number += 1
                    if not number % _LINES_AT_ONCE:
                        await asyncio.sleep(0)


def _is_cut(line: bytes) -> bool:
    return len(line) == _MAX_LINE and not line.endswith(b"\n")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CannotCompare(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file; yield its lines, decompressed, and the file itself."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise CannotCompare("Standard input cannot be read: it is closed.")
        # Not `sys.stdin`: Python aborts if a thread still waits for that at the end.
        standard_input = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
        yield standard_input, standard_input
        return
    try:
        with path.open("rb") as raw:
            is_gzip = raw.peek(2)[:2] == b"\x1f\x8b"  # it may be a pipe
            yield (io.BufferedReader(gzip.GzipFile(fileobj=raw)) if is_gzip else raw), raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CannotCompare(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise CannotCompare(f"{path} cannot be read: {error.strerror or error}") from error


async def _readline(path: Path, lines: BinaryIO) -> bytes:
    if path == STANDARD_INPUT:
        return await _in_thread(lambda: lines.readline(_MAX_LINE))  # it may wait for its writer
    return lines.readline(_MAX_LINE)


async def _in_thread(function: Callable[[], bytes]) -> bytes:
    """Return the result of a function that may never end, and that Python does not wait for.

    At its end, Python does wait for threads of `asyncio.to_thread`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def finish(result: bytes) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = function()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, result)

    threading.Thread(target=run, daemon=True).start()
    return await done


class Prefix:
    """The path of the content app, which paths of logs begin with."""

    def __init__(self, base_url: str) -> None:
        self.path = urlsplit(base_url).path

    def strip(self, target: str) -> str | None:
        """Return a target relative to the content app, None if it is not below it."""
        if target == self.path.rstrip("/"):
            return None
        return target.removeprefix(self.path) if target.startswith(self.path) else None


class UrlList:
    """Paths below the content app, or URLs, one a line. Empty lines and comments are skipped."""

    def __init__(self, path: Path, prefix: Prefix) -> None:
        self.skipped: Counter[str] = Counter()
        self._lines = _Lines([path])
        self._prefix = prefix
        self.total = self._lines.total

    @property
    def done(self) -> int:
        """Bytes that have been read."""
        return self._lines.done

    async def items(self) -> AsyncIterator[Item]:
        """Yield an item for each line."""
        async for line in self._lines:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            try:
                target = self._target(line)
            except ValueError:
                self.skipped["lines that are no URL"] += 1
                continue
            if target is None:
                self.skipped[f"URLs that are not below {self._prefix.path}"] += 1
                continue
            yield Item(Request(target))
        if self._lines.too_long:
            self.skipped[_TOO_LONG] = self._lines.too_long

    def _target(self, line: str) -> str | None:
        encoded = quote(line.encode("utf-8", "surrogateescape"), safe=_URL_SAFE).partition("#")[0]
        if "://" in encoded.partition("?")[0]:
            url = urlsplit(encoded)
            encoded = f"{url.path}?{url.query}" if url.query else url.path
        return self._prefix.strip(encoded) if encoded.startswith("/") else encoded


class AccessLogs:
    """Requests of access logs, in their order."""

    def __init__(self, paths: Sequence[Path], prefix: Prefix, with_variants: bool) -> None:
        self.skipped: Counter[str] = Counter()
        self._lines = _Lines(paths)
        self._names = ", ".join(map(os.fspath, paths))
        self._prefix = prefix
        self._with_variants = with_variants
        self.total = self._lines.total

    @property
    def done(self) -> int:
        """Bytes that have been read, of compressed files as they are."""
        return self._lines.done

    async def items(self) -> AsyncIterator[Item]:
        """Yield an item for each line that is a request for content which changes nothing.

        Raises CannotCompare if the first lines have no request, or if there is no line.
        """
        unknown, recognized, example = 0, 0, ""
        async for line in self._lines:
            request = parse_line(line)
            if request is None:
                unknown, example = unknown + 1, example or line
                if not recognized and unknown >= _LINES_TO_RECOGNIZE:
                    break
                self.skipped["lines that are not in a known format"] += 1
                continue
            recognized += 1
            item = self._item(request)
            if item is not None:
                yield item
        if recognized:
            return
        if not unknown:
            raise CannotCompare(f"The access log is empty: {self._names}")
        start = masked_text(example[:200])
        raise CannotCompare(
            f"{self._names} is in an unknown format: no line has a request as in nginx's and "
            f"Apache's `combined`, gunicorn's or Pulp's own log. The first one: {start!r}"
        )

    def _item(self, request: Request) -> Item | None:
        target = self._prefix.strip(request.target)
        if target is None:
            self.skipped[f"requests that are not below {self._prefix.path}"] += 1
        elif request.method not in ("GET", "HEAD"):
            self.skipped["requests that are neither GET nor HEAD"] += 1
        elif not all(value.isprintable() for value in request.headers.values()):
            self.skipped["requests whose headers have control characters"] += 1
        elif MASKED in target.partition("?")[2]:
            self.skipped["requests whose signature is masked in the log"] += 1
        else:
            relative = Request(target, request.method, request.headers)
            plain = request.method == "GET" and not request.headers
            return Item(relative, with_variants=self._with_variants and plain)
        return None
