"""Runs the downloader of a plugin's remote, with its proxy, TLS and credentials, into a sink."""

import atexit
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from pulpcore.content_star.remote.sources import NotModified, Source
from pulpcore.download.http import HttpDownloader
from pulpcore.exceptions import DigestValidationError, SizeValidationError

_TELLS_HEADERS = HttpDownloader._handle_response
_RUN = HttpDownloader._run


class Sink(Protocol):
    """Takes what a downloader brings. Whatever a method raises ends the download."""

    async def restart(self) -> int:
        """The downloader begins, for the first time or again.

        Returns the byte from which on the rest would do. It is asked for where the downloader can
        do that, but what comes starts at byte 0 unless `headers` says otherwise.
        """

    async def headers(self, headers: Mapping[str, str]) -> None:
        """The remote has answered; with Content-Range, what comes starts there. Not all downloaders
        say so."""

    async def write(self, data: bytes) -> None:
        """The next bytes, with any Content-Encoding undone."""

    async def finish(self) -> None:
        """All bytes have come."""


async def fetch(source: Source, sink: Sink) -> None:
    """Download from `source`, trying as often as its remote says.

    Raises anything; NotModified if the source has conditions and they do not hold.

    What the downloader writes, hashes and checks is left to `sink`: done by itself, writing and
    hashing would block the event loop.
    """
    remote = source.remote
    downloader = None
    try:
        downloader = remote.get_downloader(
            remote_artifact=source.remote_artifact, headers_ready_callback=sink.headers
        )
        _divert(downloader, sink, source.conditions)
        with _quiet_libraries():
            await downloader.run(
                extra_data={"disable_retry_list": (DigestValidationError, SizeValidationError)}
            )
    finally:
        await _close(downloader, remote)


def _divert(downloader: Any, sink: Sink, conditions: Mapping[str, str]) -> None:
    """Lead all that `downloader` does with data to `sink`, as upstream's content app does too."""
    run_once = downloader._run

    session = getattr(downloader, "session", None)
    # Others might not tell us that the remote has sent a part.
    can_resume = getattr(type(downloader), "_handle_response", None) is _TELLS_HEADERS

    async def run_from(*args: Any, **kwargs: Any) -> Any:
        offset = await sink.restart()
        if session is not None:
            # aiohttp would ask for gzip, and then nobody knows the size before the end.
            session.headers["Accept-Encoding"] = "identity"
            session.headers.pop("Range", None)
            if offset and can_resume:
                session.headers["Range"] = f"bytes={offset}-"
        return await run_once(*args, **kwargs)

    if session is not None and conditions and type(downloader)._run is _RUN:
        # Others might take 304 for an empty file.
        session.headers.update(conditions)
        _notice_not_modified(downloader)
    downloader._run = run_from
    downloader.handle_data = sink.write
    downloader.finalize = sink.finish


def _notice_not_modified(downloader: Any) -> None:
    raise_for_status = downloader.raise_for_status

    def raise_for_status_and_304(response: Any) -> None:
        if response.status == 304:
            raise NotModified
        raise_for_status(response)

    downloader.raise_for_status = raise_for_status_and_304


async def _close(downloader: Any, remote: Any) -> None:
    """Close the session that is made for each remote, even for one of files, and forget it: its
    factory is kept until the process ends, to be closed then."""
    factory = remote.__dict__.get("_download_factory")
    for session in {getattr(downloader, "session", None), getattr(factory, "_session", None)}:
        if session is not None:
            await session.close()
    if factory is not None:
        atexit.unregister(factory._session_cleanup)


# Whether the loggers of libraries keep what they would say of a URL to themselves: one may be
# signed, or have a password in it. What went wrong is logged by us.
_is_quiet: ContextVar[bool] = ContextVar("content_star_quiet", default=False)


def _unless_quiet(record: logging.LogRecord) -> bool:
    return not _is_quiet.get()


for _name in ("backoff", "pulpcore.download.http"):
    logging.getLogger(_name).addFilter(_unless_quiet)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)
