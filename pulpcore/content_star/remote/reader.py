"""Readers and sources for the bytes of a download in progress."""

from collections.abc import Sequence

from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.downloads import Downloads
from pulpcore.content_star.remote.request import FetchRequest
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    Closing,
    DescriptorReadable,
    Readable,
    StoreReadError,
)


class Reader(Closing, DescriptorReadable):
    """Read a download from its temporary file, waiting for bytes that have not arrived."""

    def __init__(self, download: Download, size: int) -> None:
        """Take over the reference of a client that has retained `download`; `close` releases it."""
        self.size = size
        self._download = download
        self._file = download.open()

    async def read(self, offset: int, length: int) -> bytes:
        """Read as `Readable.read`. Raises RemoteBroke if the fetch fails."""
        stop = await self._download.wait_for_bytes(offset, offset + min(length, CHUNK_SIZE))
        return await self._file.read(offset, stop - offset)

    @property
    def name(self) -> str:
        return self._file.name

    def fileno(self) -> int:
        """Return the descriptor of the temporary file."""
        return self._file.fileno()

    async def available(self, offset: int, length: int) -> int:
        """Wait as `read`, and return how many bytes have arrived."""
        await self._download.wait_for_bytes(offset, offset + min(length, CHUNK_SIZE))
        return await self._file.available(offset, min(length, self._download.available - offset))

    def close(self) -> None:
        """Close the file and release the download."""
        self._file.close()
        self._download.release()


class SizeOnly(Closing):
    """State the size of a file whose body is not read, as for HEAD."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        """Raise StoreReadError: there is no body."""
        raise StoreReadError("Opened without byte ranges to read")

    def close(self) -> None:
        """Do nothing: no file is open."""


class DownloadSource:
    """A `responses.source.Source` that fetches a file of `size` bytes when it is opened."""

    def __init__(self, downloads: Downloads, request: FetchRequest, size: int) -> None:
        self.name = request.name
        self._downloads = downloads
        self._request = request
        self._size = size

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """Join the download and wait for its first bytes and its size.

        A failure until then can still become an error response. Raises RemoteUnavailable,
        StoreUnavailable, AlreadySaved, RemoteBroke.
        """
        if not parts:
            return SizeOnly(self._size)
        download = self._downloads.join(self._request)
        download.retain()
        try:
            return Reader(download, await download.wait_for_size())
        except BaseException:
            download.release()
            raise
