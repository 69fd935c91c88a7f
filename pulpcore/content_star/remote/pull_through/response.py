"""Response for a file that the remote of a distribution may have (pull-through)."""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from multidict import CIMultiDict
from starlette.types import ASGIApp, Scope, Send

from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.downloader import fetch
from pulpcore.content_star.remote.errors import RemoteUnavailable, failure_of, reason
from pulpcore.content_star.remote.pull_through.metadata_cache import MetadataCache, forbids_storing
from pulpcore.content_star.remote.pull_through.models import PullThroughRequest, RemoteRefused
from pulpcore.content_star.remote.reader import Reader, SizeOnly
from pulpcore.content_star.remote.request import NotModified
from pulpcore.content_star.remote.response import RemoteResponse
from pulpcore.content_star.resources import Resources, resources_of
from pulpcore.content_star.responses.artifact import ArtifactResponse, RepresentationArguments
from pulpcore.content_star.responses.body import receive_never
from pulpcore.content_star.responses.headers import parse_http_date
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import CHUNK_SIZE, Readable, Source
from pulpcore.content_star.responses.unsized import UnsizedResponse
from pulpcore.content_star.upstream import with_domain

log = logging.getLogger(__name__)

# A download that has started, or the response headers alone.
_RemoteResult = Download | CIMultiDict[str]

# Response headers of metadata that are forwarded, beside its validators. Others describe the
# connection, cookies, encoding or origin of the remote, not this response.
FORWARDED_HEADERS = (
    "Content-Type",
    "Content-Language",
    "Docker-Content-Digest",
    "Docker-Distribution-Api-Version",
    "Link",
    "X-PyPI-Last-Serial",
)


# Field values and entity tags of RFC 9110 sections 5.5 and 8.8.3, in ASCII.
_FIELD_VALUE = re.compile(r"[\t -~]*")
_ETAG = re.compile(r'(W/)?"[!#-~]*"')


class PullThroughResponse(RemoteResponse):
    """Send a file of the remote while it is fetched, as an ASGI application.

    Content has the headers that it will have when it is saved; metadata has those of the remote.
    There are no ranges while the size is unknown. Calling raises RemoteRefused for an error status
    of the remote, and as `RemoteResponse`.
    """

    def __init__(
        self,
        fetch_request: PullThroughRequest,
        look_up_again: Callable[[], ASGIApp],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(look_up_again)
        self.fetch_request = fetch_request
        self.headers = headers

    async def _from_remote(self, scope: Scope, send: Send) -> None:
        resources = resources_of(scope)
        is_header_probe = scope["method"] == "HEAD" and not resources.downloads.has(
            self.fetch_request
        )
        fetch_new = _headers_of if is_header_probe else self._start_download
        found = await self._cached_or(partial(fetch_new, resources), resources.metadata)
        if not isinstance(found, Download):
            return await self._head_response(found)(scope, receive_never, send)
        try:
            await self._response(found)(scope, receive_never, send)
        finally:
            if self.fetch_request.content_type is None:
                resources.metadata.finish_in_background(found)
            found.release()

    # Downloads

    async def _cached_or(
        self,
        fetch_new: Callable[[PullThroughRequest], Awaitable[_RemoteResult]],
        metadata: MetadataCache,
    ) -> _RemoteResult:
        """Return a cached metadata download, retained, or the result of `fetch_new`.

        A cached entry is used while fresh, after a 304 of the remote, and for STALE_IF_ERROR
        seconds while the remote fails.
        """
        entry = metadata.get(self.fetch_request)
        if entry is None:
            return await fetch_new(self.fetch_request)
        entry.download.retain()  # keeps it open while the remote is requested
        if entry.is_fresh:
            return entry.download
        try:
            result = await fetch_new(replace(self.fetch_request, conditions=entry.conditions))
        except NotModified as not_modified:
            metadata.confirm(self.fetch_request, entry, not_modified.headers)
            return entry.download
        except RemoteUnavailable as error:
            if entry.may_be_stale and not _is_final(error):
                entry.back_off()
                return entry.download
            entry.download.release()
            if _is_final(error):
                metadata.remove(self.fetch_request)
            raise
        except BaseException:
            entry.download.release()
            raise
        entry.download.release()
        return result

    async def _start_download(
        self, resources: Resources, fetch_request: PullThroughRequest
    ) -> Download:
        """Join and retain the download of the request, and wait for its first bytes."""
        downloads = resources.downloads
        download = downloads.join(fetch_request)
        if download.complete and not fetch_request.saves:
            # A slow client still reads it; the remote may have a newer version.
            downloads.invalidate(download)
            download = downloads.join(fetch_request)
        if fetch_request.content_type is None:
            download.on_complete = partial(resources.metadata.put, self.fetch_request)
        download.retain()
        try:
            await download.wait_for_start()
        except BaseException:
            download.release()
            raise
        return download

    # Responses

    def _response(self, download: Download) -> ASGIApp:
        size, sha256 = download.size, download.sha256
        source = _DownloadingSource(self.fetch_request.name, size or 0, download)
        return self._build_response(download.headers, size, sha256, source, _chunks(download))

    def _head_response(self, headers: Mapping[str, str]) -> ASGIApp:
        """Build the response to HEAD from the headers of the remote."""
        length = headers.get("Content-Length", "")
        is_size = length.isdecimal() and "Content-Encoding" not in headers
        size = int(length) if is_size else None
        source = _DownloadingSource(self.fetch_request.name, size or 0, None)
        return self._build_response(headers, size, None, source, _no_chunks())

    def _build_response(
        self,
        headers: Mapping[str, str],
        size: int | None,
        sha256: str | None,
        source: Source,
        chunks: AsyncGenerator[bytes, None],
    ) -> ASGIApp:
        remote_headers = _valid_fields(headers if self.fetch_request.content_type is None else {})
        etag = remote_headers.get("ETag", "")
        if not _ETAG.fullmatch(etag):
            etag = ""
        last_modified = parse_http_date(remote_headers.get("Last-Modified", ""))
        arguments: RepresentationArguments = {
            "size": size or 0,
            "sha256": None if etag or size is None else sha256,
            "etag": etag,
            "last_modified": last_modified,
            "filename": self.fetch_request.path,
            "headers": {**_content_type(headers), **self.headers, **_forwarded(remote_headers)},
            "disposition": "inline" if self.fetch_request.content_type is None else "attachment",
        }
        return (
            UnsizedResponse(chunks, **arguments)
            if size is None
            else ArtifactResponse(source, **arguments)
        )


def _content_type(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the Content-Type of the remote, for a file without a known type."""
    value = _valid_fields(headers).get("Content-Type")
    return {"Content-Type": value} if value else {}


def _valid_fields(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers with valid field values."""
    return CIMultiDict(
        (name, value) for name, value in headers.items() if _FIELD_VALUE.fullmatch(value)
    )


def _forwarded(remote_headers: CIMultiDict[str]) -> dict[str, str]:
    headers = {name: remote_headers[name] for name in FORWARDED_HEADERS if name in remote_headers}
    if forbids_storing(remote_headers):
        headers["Cache-Control"] = "no-store"
    return headers


def _is_final(error: RemoteUnavailable) -> bool:
    """Return whether a repeated request would be refused too: not for 408, 429 and 5XX."""
    status = error.status if isinstance(error, RemoteRefused) else 502
    return 400 <= status < 500 and status not in (408, 429)


class _DownloadingSource:
    """A `responses.source.Source` for a started download, or for HEAD without one."""

    def __init__(self, name: str, size: int, download: Download | None) -> None:
        self.name = name
        self._size = size
        self._download = download

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """Return a reader. Does not wait: the download has started."""
        if self._download is None or not parts:
            return SizeOnly(self._size)
        self._download.retain()
        try:
            return Reader(self._download, self._size)
        except BaseException:
            self._download.release()
            raise


async def _chunks(download: Download) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of the download as they arrive. Raises RemoteBroke."""
    offset = 0
    with download.open() as file:
        while (available := await download.wait_for_more(offset)) > offset:
            data = await file.read(offset, min(available - offset, CHUNK_SIZE))
            offset += len(data)
            yield data


async def _no_chunks() -> AsyncGenerator[bytes, None]:
    return
    yield


class _HeadersReceived(Exception):
    """The response headers have arrived, and the body is not needed."""


class _HeaderSink:
    """A `Sink` that ends the download after the response headers."""

    def __init__(self) -> None:
        self.response_headers: CIMultiDict[str] = CIMultiDict()

    async def restart(self) -> int:
        return 0

    async def headers(self, headers: Mapping[str, str], is_decoded: bool = True) -> None:
        self.response_headers = CIMultiDict(headers)
        raise _HeadersReceived

    async def write(self, data: bytes) -> None:
        raise _HeadersReceived  # the downloader reports no headers

    async def finish(self) -> None:
        raise _HeadersReceived


async def _headers_of(resources: Resources, fetch_request: PullThroughRequest) -> CIMultiDict[str]:
    """Request the file from the remote, and disconnect after the response headers.

    Returns the headers. Raises RemoteUnavailable, AlreadySaved, NotModified.
    """
    failure: Exception | None = None
    with with_domain(fetch_request.domain):
        for source in await resources.downloads.executor.run(fetch_request.sources):
            sink = _HeaderSink()
            try:
                await fetch(source, sink)
            except _HeadersReceived:
                return sink.response_headers
            except NotModified:
                raise
            except Exception as error:
                log.warning(
                    "Remote '%s' failed to send the headers of the %s: %s",
                    source.remote.name,
                    fetch_request.name,
                    reason(error),
                )
                failure = error
    raise fetch_request.client_error(failure) or failure_of(failure)
