"""Responses for files that are fetched from a remote while they are sent."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.remote.downloads import Downloads
from pulpcore.content_star.remote.reader import DownloadSource
from pulpcore.content_star.remote.request import AlreadySaved, FetchRequest
from pulpcore.content_star.resources import resources_of
from pulpcore.content_star.responses.artifact import ArtifactResponse
from pulpcore.content_star.responses.body import receive_never
from pulpcore.content_star.responses.conditional import Validators, evaluate
from pulpcore.content_star.responses.disconnect import until_disconnect
from pulpcore.content_star.responses.headers import Disposition

# RFC 9211: the response was forwarded to a remote. `pulp-star compare` relies on it.
CACHE_STATUS = (b"cache-status", b"pulp; fwd=miss")


async def send_with_cache_status(send: Send, message: Message) -> None:
    """Send a message; the start of a response gets `Cache-Status`."""
    if message["type"] == "http.response.start":
        message = {**message, "headers": [*message["headers"], CACHE_STATUS]}
    await send(message)


class RemoteResponse(ABC):
    """Send a file while it is fetched, as an ASGI application.

    Calling raises RemoteUnavailable, RemoteBroke and StoreUnavailable.
    """

    def __init__(self, look_up_again: Callable[[], ASGIApp]) -> None:
        """Store `look_up_again`, which returns the response for the file after AlreadySaved.

        It blocks, and runs in the database executor.
        """
        self.look_up_again = look_up_again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Watch from the start: a disconnect also ends the wait for the remote.
        await until_disconnect(receive, partial(self._respond, scope, send))

    async def _respond(self, scope: Scope, send: Send) -> None:
        try:
            await self._from_remote(scope, partial(send_with_cache_status, send))
        except AlreadySaved:
            executor = resources_of(scope).downloads.executor
            response = await executor.run(self.look_up_again)
            await response(scope, receive_never, send)

    @abstractmethod
    async def _from_remote(self, scope: Scope, send: Send) -> None:
        """Send the response. Raises AlreadySaved before anything is sent."""


class OnDemandResponse(RemoteResponse):
    """Send an on-demand file with the headers that it would have if it were saved.

    If no remote announced the size, the headers wait until the size is known, at the latest when
    the file is complete. Without a sha256 there is no `ETag` unless the file is complete.
    """

    def __init__(
        self,
        fetch_request: FetchRequest,
        look_up_again: Callable[[], ASGIApp],
        *,
        filename: str,
        last_modified: datetime | None,
        headers: Mapping[str, str],
        disposition: Disposition = "attachment",
    ) -> None:
        super().__init__(look_up_again)
        self.fetch_request = fetch_request
        self.filename = filename
        self.last_modified = last_modified
        self.headers = headers
        self.disposition = disposition

    async def _from_remote(self, scope: Scope, send: Send) -> None:
        downloads = resources_of(scope).downloads
        size, sha256 = self.fetch_request.size, self.fetch_request.sha256
        if size is not None:
            return await self._response(downloads, size, sha256)(scope, receive_never, send)
        if sha256 is not None and self._has_precondition(scope, sha256):
            return await self._response(downloads, 0, sha256)(scope, receive_never, send)
        download = downloads.join(self.fetch_request)
        download.retain()
        try:
            size = await download.wait_for_size()
            response = self._response(downloads, size, download.sha256)
            await response(scope, receive_never, send)
        finally:
            download.release()

    def _has_precondition(self, scope: Scope, sha256: str) -> bool:
        """Return whether a precondition decides the status (304 or 412), whatever the size."""
        validators = Validators(f'"{sha256}"', self.last_modified)
        return evaluate(scope["method"], Headers(scope=scope), validators) is not None

    def _response(self, downloads: Downloads, size: int, sha256: str | None) -> ArtifactResponse:
        return ArtifactResponse(
            DownloadSource(downloads, self.fetch_request, size),
            size=size,
            sha256=sha256,
            last_modified=self.last_modified,
            filename=self.filename,
            headers=self.headers,
            disposition=self.disposition,
        )
