"""The response for a file that a distribution's remote may have (pull-through)."""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from multidict import CIMultiDict
from starlette.types import ASGIApp, Scope, Send

from pulpcore.app.contexts import with_domain
from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.downloader import fetch
from pulpcore.content_star.remote.downloads import current_downloads
from pulpcore.content_star.remote.errors import RemoteUnavailable, failure_of, reason
from pulpcore.content_star.remote.pull_through.metadata_cache import (
    current_metadata,
    forbids_storing,
)
from pulpcore.content_star.remote.pull_through.models import PullThroughRequest, RemoteRefused
from pulpcore.content_star.remote.reader import Announced, Reader
from pulpcore.content_star.remote.request import NotModified
from pulpcore.content_star.remote.response import RemoteResponse
from pulpcore.content_star.responses.artifact import ArtifactResponse, RepresentationArguments
from pulpcore.content_star.responses.body import nothing
from pulpcore.content_star.responses.headers import parse_http_date
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import STEP, Readable, Source
from pulpcore.content_star.responses.unsized import UnsizedResponse

log = logging.getLogger(__name__)

# What the remote has begun to send, or what it said of it.
_Found = Download | CIMultiDict[str]

# What clients are told of what a remote said with metadata, beside its validators. All that it
# might say of connections, cookies, encodings or origins is not about our answer.
PASSED_ON = (
    "Content-Type",
    "Content-Language",
    "Docker-Content-Digest",
    "Docker-Distribution-Api-Version",
    "Link",
    "X-PyPI-Last-Serial",
)


# Field values and entity tags of RFC 9110 sections 5.5 and 8.8.3, in ASCII.
_LEGIBLE = re.compile(r"[\t -~]*")
_ETAG = re.compile(r'(W/)?"[!#-~]*"')


class PullThroughResponse(RemoteResponse):
    """Sends what the remote has.

    Content has the headers that it will have when it is saved; what is only passed on has the
    remote's. As long as nobody knows the size there are no ranges. Calling raises RemoteRefused
    where the remote said no.
    """

    def __init__(
        self, wanted: PullThroughRequest, again: Callable[[], ASGIApp], headers: Mapping[str, str]
    ) -> None:
        super().__init__(again)
        self.wanted = wanted
        self.headers = headers

    async def _from_remote(self, scope: Scope, send: Send) -> None:
        is_asked = scope["method"] == "HEAD" and not current_downloads().has(self.wanted)
        found = await self._kept_or(_headers_of if is_asked else self._begun)
        if not isinstance(found, Download):
            return await self._announcement(found)(scope, nothing, send)
        try:
            await self._response(found)(scope, nothing, send)
        finally:
            if self.wanted.content_type is None:
                current_metadata().follow(found)
            found.leave()

    # Which download

    async def _kept_or(self, ask: Callable[[PullThroughRequest], Awaitable[_Found]]) -> _Found:
        """Return what asking the remote brings, or a download that we have entered and is kept.

        Kept metadata is used while it is fresh, when the remote says that it still holds, and for
        a while when the remote fails.
        """
        metadata = current_metadata()
        entry = metadata.get(self.wanted)
        if entry is None:
            return await ask(self.wanted)
        entry.download.enter()  # or it might be gone when the remote has answered
        if entry.is_fresh:
            return entry.download
        try:
            new = await ask(replace(self.wanted, conditions=entry.conditions))
        except NotModified as answer:
            metadata.confirm(self.wanted, entry, answer.headers)
            return entry.download
        except RemoteUnavailable as error:
            if entry.may_be_stale and not _is_final(error):
                entry.rest()
                return entry.download
            entry.download.leave()
            if _is_final(error):
                metadata.drop(self.wanted)
            raise
        except BaseException:
            entry.download.leave()
            raise
        entry.download.leave()
        return new

    async def _begun(self, wanted: PullThroughRequest) -> Download:
        """Enter the download of `wanted` and wait for its first bytes."""
        downloads = current_downloads()
        download = downloads.join(wanted)
        if download.complete and not wanted.saves:
            # A slow client still reads it; the remote may say something else by now.
            downloads.invalidate(download)
            download = downloads.join(wanted)
        if wanted.content_type is None:
            download.arrived = partial(current_metadata().keep, self.wanted)
        download.enter()
        try:
            await download.begun()
        except BaseException:
            download.leave()
            raise
        return download

    # Which response

    def _response(self, download: Download) -> ASGIApp:
        size, sha256 = download.size, download.sha256
        source = _Arriving(self.wanted.name, size or 0, download)
        return self._answer(download.told, size, sha256, source, _chunks(download))

    def _announcement(self, told: Mapping[str, str]) -> ASGIApp:
        """What HEAD is answered with, by the headers that the remote told."""
        length = told.get("Content-Length", "")
        is_size = length.isdecimal() and "Content-Encoding" not in told
        size = int(length) if is_size else None
        source = _Arriving(self.wanted.name, size or 0, None)
        return self._answer(told, size, None, source, _no_chunks())

    def _answer(
        self,
        told: Mapping[str, str],
        size: int | None,
        sha256: str | None,
        source: Source,
        chunks: AsyncGenerator[bytes, None],
    ) -> ASGIApp:
        theirs = _legible(told if self.wanted.content_type is None else {})
        etag = theirs.get("ETag", "")
        if not _ETAG.fullmatch(etag):
            etag = ""
        last_modified = parse_http_date(theirs.get("Last-Modified", ""))
        said: RepresentationArguments = {
            "size": size or 0,
            "sha256": None if etag or size is None else sha256,
            "etag": etag,
            "last_modified": last_modified,
            "filename": self.wanted.path,
            "headers": {**_type_of(told), **self.headers, **_passed_on(theirs)},
            "disposition": "inline" if self.wanted.content_type is None else "attachment",
        }
        return UnsizedResponse(chunks, **said) if size is None else ArtifactResponse(source, **said)


def _type_of(told: Mapping[str, str]) -> dict[str, str]:
    """Return the remote's type, for a file that neither its name nor the plugin gives one."""
    theirs = _legible(told).get("Content-Type")
    return {"Content-Type": theirs} if theirs else {}


def _legible(told: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers that can be sent on as they came."""
    return CIMultiDict((name, value) for name, value in told.items() if _LEGIBLE.fullmatch(value))


def _passed_on(theirs: CIMultiDict[str]) -> dict[str, str]:
    headers = {name: theirs[name] for name in PASSED_ON if name in theirs}
    if forbids_storing(theirs):
        headers["Cache-Control"] = "no-store"
    return headers


def _is_final(error: RemoteUnavailable) -> bool:
    """Whether the remote knows what it says: not so for 408, 429 and what fails on its side."""
    status = error.status if isinstance(error, RemoteRefused) else 502
    return 400 <= status < 500 and status not in (408, 429)


class _Arriving:
    """A `responses.source.Source`: what a download brings, or what nobody is going to read."""

    def __init__(self, name: str, size: int, download: Download | None) -> None:
        self.name = name
        self._size = size
        self._download = download

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """The download has begun, so that nothing is waited for."""
        if self._download is None or not parts:
            return Announced(self._size)
        self._download.enter()
        try:
            return Reader(self._download, self._size)
        except BaseException:
            self._download.leave()
            raise


async def _chunks(download: Download) -> AsyncGenerator[bytes, None]:
    """Read what comes, as it comes. Raises RemoteBroke."""
    offset = 0
    with download.open() as file:
        while (available := await download.grown(offset)) > offset:
            data = await file.read(offset, min(available - offset, STEP))
            offset += len(data)
            yield data


async def _no_chunks() -> AsyncGenerator[bytes, None]:
    return
    yield


class _Answered(Exception):
    """The remote has told the headers, which is all that was asked for."""


class _Probe:
    """A `Sink` that wants headers only."""

    def __init__(self) -> None:
        self.told: CIMultiDict[str] = CIMultiDict()

    async def restart(self) -> int:
        return 0

    async def headers(self, headers: Mapping[str, str], is_decoded: bool = True) -> None:
        self.told = CIMultiDict(headers)
        raise _Answered

    async def write(self, data: bytes) -> None:
        raise _Answered  # by a downloader that tells no headers

    async def finish(self) -> None:
        raise _Answered


async def _headers_of(wanted: PullThroughRequest) -> CIMultiDict[str]:
    """Ask the remote, and hang up when it has told the headers.

    Raises RemoteUnavailable, AlreadySaved, NotModified.
    """
    failure: Exception | None = None
    with with_domain(wanted.domain):
        for source in await current_downloads().executor.run(wanted.sources):
            probe = _Probe()
            try:
                await fetch(source, probe)
            except _Answered:
                return probe.told
            except NotModified:
                raise
            except Exception as error:
                log.warning("Remote '%s': %s", source.remote.name, reason(error))
                failure = error
    raise wanted.refusal(failure) or failure_of(failure)
