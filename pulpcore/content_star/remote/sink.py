"""What remotes send, one after the other, becomes one verified file."""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial

from django.conf import settings

from pulpcore.app import pulp_hashlib
from pulpcore.app.models import Artifact
from pulpcore.content_star.remote.decoding import Decoder, check_ratio
from pulpcore.content_star.remote.errors import CannotDecode, CannotResume, Mismatch
from pulpcore.content_star.remote.request import FetchRequest, RemoteSource
from pulpcore.content_star.remote.spool import Spool
from pulpcore.content_star.responses.source import STEP
from pulpcore.content_star.storage.disk import in_thread

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<size>\d{1,19})")


class VerifyingSink:
    """The `Sink` of the downloaders that are tried for a file; `source` is whose turn it is.

    The last byte of the file is kept back until all of it has been verified, so nobody ever has the
    whole of a file that is wrong; of a file that is to be saved, until `release`.
    """

    def __init__(self, request: FetchRequest, notify: Callable[[], None]) -> None:
        """`announce` is called when there is more for clients."""
        self.size = request.size
        """In bytes; None as long as nobody knows. It holds once `available` is more than 0."""
        self.sha256 = request.sha256
        self.response_headers: Mapping[str, str] = {}
        """Headers that came with the first bytes, if the downloader tells headers."""
        self.available = 0
        """Bytes from the start on that clients may have."""
        self.complete = False
        """Whether all has come and is verified."""
        self.released = False
        """Whether clients may have all of it, to the end."""
        self.is_wrong = False
        """Whether what clients may have had is known to be of another file."""
        self.spool: Spool | None = None
        self.source: RemoteSource | None = None
        self._request = request
        self._notify = notify
        self._first_source: RemoteSource | None = None  # whose the first bytes are
        self._position = 0  # of the source that sends now
        self._encoded_size = 0  # bytes of that source that were decoded
        self._decoder: Decoder | None = None
        self._pending_encoding = ""  # the encoding that might have to be undone

    def cannot_resume(self) -> bool:
        """Whether no other source can go on."""
        return bool(self.available) and (self.is_wrong or not self._expected_digests())

    async def restart(self) -> int:
        """Go on behind the bytes that clients have, if their digest is known in the end."""
        if self.spool is None:
            self.spool = await _new_spool()
        self._position = self._encoded_size = 0
        if self.cannot_resume():
            raise CannotResume("the file cannot be gone on with")
        if not self.available:
            self.size = self._request.size
            self._first_source = self.source
            self.is_wrong = False
            await self.spool.clear()
        # A part of what was encoded would not do.
        return 0 if self._decoder is not None else self.spool.size

    async def headers(self, headers: Mapping[str, str], is_decoded: bool) -> None:
        """Learn the size, where it is the size of the file and not of something encoded."""
        assert self.spool is not None
        self._decoder, self._pending_encoding = None, ""
        if not self.available:
            self.response_headers = headers
        part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if part is None and "Content-Range" in headers:
            raise Mismatch("a part that does not say of how much", self.source)
        if part and int(part["first"]) != self.spool.size:
            raise Mismatch(f"from byte {part['first']} instead of {self.spool.size}", self.source)
        if part:
            self._position = self.spool.size
        text = part["size"] if part else headers.get("Content-Length", "")
        length = int(text) if text.isdecimal() else None
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            if is_decoded:
                return
            self._choose_decoding(encoding, length, is_part=part is not None)
            if self._decoder or self._pending_encoding:
                return
        if length is not None and self.size is None:
            self._check_size(length)
            self.size = length
        elif length not in (None, self.size):
            raise Mismatch(f"{length} bytes instead of {self.size}", self.source)

    def _choose_decoding(self, encoding: str, length: int | None, is_part: bool) -> None:
        """Decide whether the file is what was sent or what comes of undoing its encoding.

        Servers mark a `.gz` file as encoded though it is the compressed file that is known by its
        digest. Without a digest the encoding is undone, which is what it means. Where only the
        digest can tell, that waits for the end, and so do clients.
        """
        assert self.spool is not None
        if self._expected_digests() and length is not None and length == self._request.size:
            return
        if is_part:
            raise CannotDecode("a part of something encoded")
        has_both_sizes = length is not None and self._request.size is not None
        if self._expected_digests() and not has_both_sizes and not self.spool.size:
            self._pending_encoding = encoding
            return
        self._decoder = Decoder(encoding)

    async def write(self, data: bytes) -> None:
        """Keep what is new, and let clients have what is not the end. Raises Mismatch."""
        if self._decoder is None:
            return await self._append(data)
        self._encoded_size += len(data)
        self._check_size(self._encoded_size, is_encoded=True)
        self._decoder.feed(data)
        try:
            while piece := await in_thread(self._decoder.read):
                self._check_ratio(self._encoded_size, self._position + len(piece))
                await self._append(piece)
        except CannotDecode as error:
            raise Mismatch(str(error), self.source) from None

    async def _append(self, data: bytes) -> None:
        assert self.spool is not None
        skipped = self.spool.size - self._position
        self._position += len(data)
        self._check_size(self._position, is_encoded=bool(self._pending_encoding))
        if skipped > 0:
            data = data[skipped:]
        if not data:
            return
        before = self.spool.size
        await self.spool.write(data)
        if self._pending_encoding:
            return
        is_end = self.size is None or self.spool.size == self.size
        self.available = before if is_end else self.spool.size
        self._notify()

    def _check_size(self, size: int, is_encoded: bool = False) -> None:
        """Raise Mismatch if `size` bytes are more than there can be of the file.

        Encoding never makes a file twice as long.
        """
        limit = settings.CONTENT_STAR_REMOTE_MAX_SIZE if self.size is None else self.size
        if size > (2 * limit + STEP if is_encoded else limit):
            hint = " (CONTENT_STAR_REMOTE_MAX_SIZE)" if self.size is None else ""
            raise Mismatch(f"more than {limit} bytes{hint}", self.source)

    def _check_ratio(self, encoded: int, decoded: int) -> None:
        """Raise CannotDecode for a decompression bomb. A known size is bound enough."""
        if self.size is None:
            check_ratio(encoded, decoded)

    async def finish(self) -> None:
        """Verify the file; let clients have its end unless it is to be saved. Raises Mismatch."""
        assert self.spool is not None
        try:
            if self._decoder is not None:
                self._decoder.finish()
            if self._pending_encoding:
                await self._resolve_encoding()
        except CannotDecode as error:
            raise Mismatch(str(error), self.source) from None
        if self._position < self.spool.size or self.size not in (None, self._position):
            raise Mismatch(f"{self._position} bytes instead of {self.size}", self.source)
        if name := self._mismatched_digest():
            self.is_wrong = True
            raise Mismatch(f"the {name} digest is another", self._first_source)
        self.size = self.spool.size
        self.sha256 = self.spool.digests()["sha256"]
        self.complete = True
        if self.source is not None and self.source.saves:
            return self._notify()
        self.release()

    def release(self) -> None:
        """Let clients have all of a complete file; any number of times."""
        if self.complete and not self.released:
            self.available = self.spool.size if self.spool else 0
            self.released = True
            self._notify()

    def _expected_digests(self) -> dict[str, str]:
        """Return what has been announced, by the source that began and by the one that goes on."""
        digests: dict[str, str] = {}
        for source in (self.source, self._first_source):
            digests.update(source.digests if source else {})
        if self._request.sha256:
            digests["sha256"] = self._request.sha256
        return digests

    def _mismatched_digest(self) -> str | None:
        """Return the name of the first digest that is another than announced."""
        assert self.spool is not None
        digests = self.spool.digests()
        expected = self._expected_digests().items()
        return next((name for name, digest in expected if digests[name] != digest), None)

    async def _resolve_encoding(self) -> None:
        """Undo the encoding of what has been written, unless it is the file as it is."""
        assert self.spool is not None
        if self._mismatched_digest() is None:
            return
        encoded, self.spool = self.spool, await _new_spool()
        decoder = Decoder(self._pending_encoding)
        try:
            with encoded.reader() as reader:
                for start in range(0, encoded.size, STEP):
                    decoder.feed(await reader.read(start, min(STEP, encoded.size - start)))
                    while piece := await in_thread(decoder.read):
                        self._check_ratio(encoded.size, self.spool.size + len(piece))
                        self._check_size(self.spool.size + len(piece))
                        await self.spool.write(piece)
            decoder.finish()
        finally:
            encoded.unlink()
            encoded.close()
        self._position = self.spool.size

    def unlink(self) -> None:
        """Remove the name of the temporary file; who reads it may go on."""
        if self.spool is not None:
            self.spool.unlink()

    def close(self) -> None:
        """Give back the temporary file; any number of times."""
        if self.spool is not None:
            self.spool.close()


async def _new_spool() -> Spool:
    hashers = {name: partial(pulp_hashlib.new, name) for name in Artifact.DIGEST_FIELDS}
    creation = asyncio.ensure_future(in_thread(Spool, str(settings.WORKING_DIRECTORY), hashers))
    try:
        return await asyncio.shield(creation)
    except asyncio.CancelledError:
        spool = await creation  # its thread goes on, and nobody else would clean up
        spool.unlink()
        spool.close()
        raise
