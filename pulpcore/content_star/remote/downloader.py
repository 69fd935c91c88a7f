"""Run the downloader of a plugin's remote, with its proxy, TLS and credentials, into a sink."""

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
from pulpcore.plugin.download import HttpDownloader
from pulpcore.plugin.exceptions import DigestValidationError, SizeValidationError

_STOCK_HANDLE_RESPONSE = HttpDownloader._handle_response
_STOCK_RUN = HttpDownloader._run


class Sink(Protocol):
    """Receiver of the events of a downloader. An exception of any method ends the download."""

    async def restart(self) -> int:
        """Start the body, at the first attempt or a retry; return the offset to resume from.

        The offset becomes a Range request if the downloader supports that; the body starts at byte
        0 unless `headers` has a Content-Range.
        """

    async def headers(self, headers: Mapping[str, str], is_decoded: bool) -> None:
        """Receive the response headers. With Content-Range, the body starts there.

        `is_decoded` says whether the downloader decodes the Content-Encoding. Not all downloaders
        report headers.
        """

    async def write(self, data: bytes) -> None:
        """Receive the next bytes of the body."""

    async def finish(self) -> None:
        """Receive the end of the body."""


async def fetch(source: RemoteSource, sink: Sink) -> None:
    """Download from `source` into `sink`, with the retries that the remote is configured for.

    Raises any exception of the downloader or the sink, TimeoutError beyond the `timeouts.Limits` of
    the remote, and NotModified for a 304 to the conditions of the source.

    Writing, hashing and verification are left to `sink`: the downloader would do them on the event
    loop.
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
    """Build the downloader; in a thread if it loads certificates, which takes 35 ms."""
    remote = source.remote
    build = partial(
        remote.get_downloader,
        remote_artifact=source.remote_artifact,
        # Replaced by `_attach_sink`.
        headers_ready_callback=partial(sink.headers, is_decoded=True),
    )
    if not (remote.ca_cert or remote.client_cert or not remote.tls_validation):
        return build()
    task = asyncio.ensure_future(in_thread(_with_loop, asyncio.get_running_loop(), build))
    try:
        return await asyncio.shield(task)
    except RuntimeError:
        return build()  # its construction needs the running event loop
    finally:
        await asyncio.wait([task])  # a finished build may have a session to close


def _with_loop(loop: asyncio.AbstractEventLoop, build: Callable[[], Any]) -> Any:
    """Call `build` in a thread for objects that are used in `loop`.

    aiohttp sessions look up the current loop, and only store it.
    """
    asyncio.set_event_loop(loop)
    try:
        return build()
    finally:
        asyncio.set_event_loop(None)


def _attach_sink(
    downloader: Any, sink: Sink, stall_timeout: StallTimeout, conditions: Mapping[str, str]
) -> dict[str, Any]:
    """Redirect the output of `downloader` to `sink`.

    Overrides the same hooks as upstream's content app. Returns the options for `downloader.run`.
    """
    run_once = downloader._run
    downloader_class = type(downloader)

    session = getattr(downloader, "session", None)
    # A subclass may not report that the response is partial.
    can_resume = getattr(downloader_class, "_handle_response", None) is _STOCK_HANDLE_RESPONSE
    # With the stock downloader aiohttp's decompression is off: the sink decides whether to decode.
    is_decoded = not can_resume or downloader_class._run is not _STOCK_RUN

    async def run_resuming(*args: Any, **kwargs: Any) -> Any:
        offset = await sink.restart()
        if session is not None:
            # aiohttp would request gzip, and the size would be unknown until the end.
            session.headers["Accept-Encoding"] = "identity"
            session.headers.pop("Range", None)
            if offset and can_resume:
                session.headers["Range"] = f"bytes={offset}-"
        return await run_once(*args, **kwargs)

    async def write(data: bytes) -> None:
        stall_timeout.add(len(data))
        await sink.write(data)

    if session is not None and downloader_class._run is _STOCK_RUN:
        # A subclass might treat 304 as an empty file.
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
    """Reject statuses whose body is not the file, such as 204, or 206 without Content-Range.

    The stock downloader rejects error statuses only (RFC 9110 section 15.3). Raises NotModified for
    304 if `may_be_304`.
    """
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
    """Close the HTTP sessions of the downloader and of its factory.

    Every remote creates a session, even one for `file:` URLs. Also removes the `atexit` hook, which
    would hold the factory in memory until the process ends.
    """
    factory = remote.__dict__.get("_download_factory")
    if factory is not None:
        atexit.unregister(factory._session_cleanup)
    for session in {getattr(downloader, "session", None), getattr(factory, "_session", None)}:
        if session is not None:
            await session.close()


# Whether library loggers are silenced: they log URLs, which may be signed or contain a password.
# Failures are logged by `Download` instead.
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
