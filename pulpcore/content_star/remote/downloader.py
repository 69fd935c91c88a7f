"""Runs the downloader of a plugin's remote, with its proxy, TLS and credentials, into a sink."""

import asyncio
import atexit
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from aiohttp import ClientResponseError

from pulpcore.content_star.remote.request import NotModified, RemoteSource
from pulpcore.content_star.remote.timeouts import Limits, StallTimeout, set_timeouts
from pulpcore.content_star.storage.disk import in_thread
from pulpcore.download.http import HttpDownloader
from pulpcore.exceptions import DigestValidationError, SizeValidationError

_STOCK_HANDLE_RESPONSE = HttpDownloader._handle_response
_STOCK_RUN = HttpDownloader._run


class Sink(Protocol):
    """Takes what a downloader brings. Whatever a method raises ends the download."""

    async def restart(self) -> int:
        """The downloader begins, for the first time or again.

        Returns the byte from which on the rest would do. It is asked for where the downloader can
        do that, but what comes starts at byte 0 unless `headers` says otherwise.
        """

    async def headers(self, headers: Mapping[str, str], is_decoded: bool) -> None:
        """The remote has answered; with Content-Range, what comes starts there. Not all downloaders
        say so. `is_decoded` tells whether what comes has its Content-Encoding undone."""

    async def write(self, data: bytes) -> None:
        """The next bytes."""

    async def finish(self) -> None:
        """All bytes have come."""


async def fetch(source: RemoteSource, sink: Sink) -> None:
    """Download from `source`, trying as often as its remote says. Raises anything, and TimeoutError
    if it takes longer than `pace.Limits` to begin, or is slower. NotModified if the source has
    conditions and they do not hold.

    What the downloader writes, hashes and checks is left to `sink`: done by itself, writing and
    hashing would block the event loop.
    """
    remote = source.remote
    limits = Limits.of(remote)
    set_timeouts(remote)
    downloader = None
    try:
        async with asyncio.timeout(limits.first_byte) as timeout:
            downloader = await _build(source, sink)
            options = _attach_sink(
                downloader, sink, StallTimeout(limits, timeout), source.conditions
            )
            with _silence_libraries():
                await downloader.run(extra_data=options)
    finally:
        await _close(downloader, remote)


async def _build(source: RemoteSource, sink: Sink) -> Any:
    """Make the downloader; in a thread where that means to read certificates, for 35 ms."""
    remote = source.remote
    build = partial(
        remote.get_downloader,
        remote_artifact=source.remote_artifact,
        # Replaced when we know what the downloader is.
        headers_ready_callback=partial(sink.headers, is_decoded=True),
    )
    if not (remote.ca_cert or remote.client_cert or not remote.tls_validation):
        return build()
    task = asyncio.ensure_future(in_thread(_with_loop, asyncio.get_running_loop(), build))
    try:
        return await asyncio.shield(task)
    except RuntimeError:
        return build()  # something that insists on running in the loop
    finally:
        await asyncio.wait([task])  # a session may come of it, which has to be closed


def _with_loop(loop: asyncio.AbstractEventLoop, build: Callable[[], Any]) -> Any:
    """Build what will be used in `loop` outside of it. Sessions look for it, and only keep it."""
    asyncio.set_event_loop(loop)
    try:
        return build()
    finally:
        asyncio.set_event_loop(None)


def _attach_sink(
    downloader: Any, sink: Sink, stall_timeout: StallTimeout, conditions: Mapping[str, str]
) -> dict[str, Any]:
    """Lead all that `downloader` does with data to `sink`, as upstream's content app does too.

    Returns the options with which to run it.
    """
    run_once = downloader._run
    downloader_class = type(downloader)

    session = getattr(downloader, "session", None)
    # Others might not tell us that the remote has sent a part.
    can_resume = getattr(downloader_class, "_handle_response", None) is _STOCK_HANDLE_RESPONSE
    # Only we can know whether a Content-Encoding is to be undone, and when it has been.
    is_decoded = not can_resume or downloader_class._run is not _STOCK_RUN

    async def run_resuming(*args: Any, **kwargs: Any) -> Any:
        offset = await sink.restart()
        if session is not None:
            # aiohttp would ask for gzip, and then nobody knows the size before the end.
            session.headers["Accept-Encoding"] = "identity"
            session.headers.pop("Range", None)
            if offset and can_resume:
                session.headers["Range"] = f"bytes={offset}-"
        return await run_once(*args, **kwargs)

    async def write(data: bytes) -> None:
        stall_timeout.add(len(data))
        await sink.write(data)

    if session is not None and downloader_class._run is _STOCK_RUN:
        # Others might take 304 for an empty file.
        session.headers.update(conditions)
        _reject_other_statuses(downloader, may_be_304=bool(conditions))
    downloader._run = run_resuming
    downloader.headers_ready_callback = partial(sink.headers, is_decoded=is_decoded)
    downloader.handle_data = write
    downloader.finalize = sink.finish
    options: dict[str, Any] = {"disable_retry_list": (DigestValidationError, SizeValidationError)}
    if not is_decoded:
        options["request_kwargs"] = {"auto_decompress": False}
    return options


def _reject_other_statuses(downloader: Any, may_be_304: bool) -> None:
    """Let nothing pass for the file that is none, such as the empty body of a 204, or a part that
    does not say which (RFC 9110 section 15.3). The downloader minds errors only."""
    raise_for_status = downloader.raise_for_status

    def raise_for_unexpected(response: Any) -> None:
        if response.status == 304 and may_be_304:
            raise NotModified(response.headers)
        raise_for_status(response)
        is_part = response.status == 206 and "Content-Range" in response.headers
        if response.status not in (200, 203) and not is_part:
            raise ClientResponseError(
                response.request_info, response.history, status=response.status
            )

    downloader.raise_for_status = raise_for_unexpected


async def _close(downloader: Any, remote: Any) -> None:
    """Close the session that is made for each remote, even for one of files, and forget it: its
    factory is kept until the process ends, to be closed then."""
    factory = remote.__dict__.get("_download_factory")
    if factory is not None:
        atexit.unregister(factory._session_cleanup)
    for session in {getattr(downloader, "session", None), getattr(factory, "_session", None)}:
        if session is not None:
            await session.close()


# Whether the loggers of libraries keep what they would say of a URL to themselves: one may be
# signed, or have a password in it. What went wrong is logged by us.
_is_silenced: ContextVar[bool] = ContextVar("content_star_quiet", default=False)


def _is_logged(record: logging.LogRecord) -> bool:
    return not _is_silenced.get()


for _name in ("backoff", "pulpcore.download.http"):
    logging.getLogger(_name).addFilter(_is_logged)


@contextmanager
def _silence_libraries() -> Iterator[None]:
    token = _is_silenced.set(True)
    try:
        yield
    finally:
        _is_silenced.reset(token)
