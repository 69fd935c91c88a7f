"""The bytes of a file that is being fetched, as responses read them."""

from collections.abc import Sequence

from pulpcore.content_star.remote.download import Download
from pulpcore.content_star.remote.downloads import current_downloads
from pulpcore.content_star.remote.request import FetchRequest
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import STEP, Closing, Readable, StoreBroke


class Reader(Closing):
    """Reads a download from its temporary file, as far as it has come."""

    def __init__(self, download: Download, size: int) -> None:
        """Takes over the place of a client who has entered `download`, until it is closed."""
        self.size = size
        self._download = download
        self._file = download.open()

    async def read(self, offset: int, length: int) -> bytes:
        """As `Readable.read`. Raises RemoteBroke if the bytes do not come."""
        length = min(length, STEP)
        await self._download.wait_for_bytes(offset + length)
        return await self._file.read(offset, length)

    def close(self) -> None:
        """Close the file, and leave the download."""
        self._file.close()
        self._download.release()


class SizeOnly(Closing):
    """Says the size of a file that nobody is going to read."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        """Nothing has been fetched."""
        raise StoreBroke("Read without having been announced")

    def close(self) -> None:
        """Nothing is open."""


class DownloadSource:
    """A `responses.source.Source`: a file of `size` bytes that is fetched when it is read."""

    def __init__(self, request: FetchRequest, size: int) -> None:
        self.name = request.name
        self._request = request
        self._size = size

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        """Wait for the first bytes, so that a failure can still be answered.

        Raises RemoteUnavailable, StoreUnavailable, AlreadySaved.
        """
        if not parts:
            return SizeOnly(self._size)
        download = current_downloads().join(self._request)
        download.retain()
        try:
            return Reader(download, await download.wait_for_size())
        except BaseException:
            download.release()
            raise
