"""Sink that assembles one verified file from the downloaders of one or more remotes."""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from django.conf import settings

from pulpcore.content_star.remote.decoding import Decoder, check_ratio
from pulpcore.content_star.remote.errors import CannotDecode, CannotResume, Mismatch
from pulpcore.content_star.remote.request import FetchRequest, RemoteSource
from pulpcore.content_star.remote.spool import Spool
from pulpcore.content_star.responses.source import CHUNK_SIZE
from pulpcore.content_star.storage.disk import in_thread
from pulpcore.plugin import pulp_hashlib
from pulpcore.plugin.models import Artifact

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<size>\d{1,19})")


class VerifyingSink:
    """Write and verify the body of a file; the `Sink` of all downloaders that are tried for it.

    `source` is the one that sends now. The last byte is withheld until size and digests have been
    verified, so no client ever has the whole of a wrong file; for a file that is to be saved it is
    withheld until `release`.
    """

    def __init__(self, request: FetchRequest, notify: Callable[[], None]) -> None:
        """`notify` is called when more bytes are available to clients, and on completion."""
        self.size = request.size
        """In bytes; None while unknown. Final once `available` is more than 0."""
        self.sha256 = request.sha256
        self.response_headers: Mapping[str, str] = {}
        """Response headers of the first bytes; empty if the downloader reports none."""
        self.available = 0
        """Number of leading bytes that clients may read."""
        self.complete = False
        """Whether the whole file has arrived and is verified."""
        self.released = False
        """Whether clients may read the file to its end."""
        self.is_wrong = False
        """Whether bytes that clients may have read are known to be wrong."""
        self.algorithms: Collection[str] = Artifact.DIGEST_FIELDS
        """Digests to calculate, of those that Pulp allows; set before the first source."""
        self.spool: Spool | None = None
        self.source: RemoteSource | None = None
        self._request = request
        self._notify = notify
        self._first_source: RemoteSource | None = None  # the source of the first bytes
        self._position = 0  # offset of the current source
        self._encoded_size = 0  # encoded bytes from the current source
        self._decoder: Decoder | None = None
        self._pending_encoding = ""  # Content-Encoding that may have to be decoded at the end

    def cannot_resume(self) -> bool:
        """Return whether no other source can continue the file."""
        return bool(self.available) and (self.is_wrong or not self._expected_digests())

    async def restart(self) -> int:
        """Start over, or resume after the available bytes where a digest will verify the whole.

        Returns the offset to resume from. Raises CannotResume.
        """
        if self.spool is None:
            self.spool = await _new_spool(self.algorithms)
        self._position = self._encoded_size = 0
        if self.cannot_resume():
            raise CannotResume("no source can resume the bytes that clients already have")
        if not self.available:
            self.size = self._request.size
            self._first_source = self.source
            self.is_wrong = False
            await self.spool.clear()
        # A range of an encoded body cannot be decoded.
        return 0 if self._decoder is not None else self.spool.size

    async def headers(self, headers: Mapping[str, str], is_decoded: bool) -> None:
        """Process the response headers: range, Content-Encoding and size.

        Content-Length is the size of the file only if the body is not encoded. Raises Mismatch.
        """
        assert self.spool is not None
        self._decoder, self._pending_encoding = None, ""
        if not self.available:
            self.response_headers = headers
        part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if part is None and "Content-Range" in headers:
            raise Mismatch("malformed Content-Range", self.source)
        if part and int(part["first"]) != self.spool.size:
            raise Mismatch(
                f"range starts at byte {part['first']} instead of {self.spool.size}", self.source
            )
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
        """Choose between storing the body as it is and decoding it.

        Servers label a `.gz` file as encoded although the compressed file is the one with the known
        digest. Without a digest the body is decoded, as the header says. Where only the digest can
        decide, the decision waits for the end of the body, and so do clients.
        """
        assert self.spool is not None
        if self._expected_digests() and length is not None and length == self._request.size:
            return
        if is_part:
            raise CannotDecode("range of an encoded body")
        has_both_sizes = length is not None and self._request.size is not None
        if self._expected_digests() and not has_both_sizes and not self.spool.size:
            self._pending_encoding = encoding
            return
        self._decoder = Decoder(encoding)

    async def write(self, data: bytes) -> None:
        """Write new bytes and make all but the last available to clients. Raises Mismatch."""
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
        """Raise Mismatch if `size` exceeds the known size or CONTENT_STAR_REMOTE_MAX_SIZE.

        An encoded body is allowed twice that, which no encoding exceeds.
        """
        limit = settings.CONTENT_STAR_REMOTE_MAX_SIZE if self.size is None else self.size
        if size > (2 * limit + CHUNK_SIZE if is_encoded else limit):
            hint = " (CONTENT_STAR_REMOTE_MAX_SIZE)" if self.size is None else ""
            raise Mismatch(f"more than {limit} bytes{hint}", self.source)

    def _check_ratio(self, encoded: int, decoded: int) -> None:
        """Raise CannotDecode for a decompression bomb, unless a known size limits the output."""
        if self.size is None:
            check_ratio(encoded, decoded)

    async def finish(self) -> None:
        """Verify size and digests; release the file unless it is to be saved. Raises Mismatch."""
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
            raise Mismatch(f"the {name} digest differs", self._first_source)
        self.size = self.spool.size
        self.sha256 = self.spool.digests()["sha256"]
        self.complete = True
        if self.source is not None and self.source.saves:
            return self._notify()
        self.release()

    def release(self) -> None:
        """Make all bytes of a complete file available. Idempotent."""
        if self.complete and not self.released:
            self.available = self.spool.size if self.spool else 0
            self.released = True
            self._notify()

    def _expected_digests(self) -> dict[str, str]:
        """Return the digests announced by the first source, the current one and the request."""
        digests: dict[str, str] = {}
        for source in (self.source, self._first_source):
            digests.update(source.digests if source else {})
        if self._request.sha256:
            digests["sha256"] = self._request.sha256
        return digests

    def _mismatched_digest(self) -> str | None:
        """Return the name of the first digest that differs from the announced one."""
        assert self.spool is not None
        digests = self.spool.digests()
        expected = self._expected_digests().items()
        return next((name for name, digest in expected if digests[name] != digest), None)

    async def _resolve_encoding(self) -> None:
        """Decode the written body, unless its digest matches without decoding."""
        assert self.spool is not None
        if self._mismatched_digest() is None:
            return
        encoded, self.spool = self.spool, await _new_spool(self.algorithms)
        decoder = Decoder(self._pending_encoding)
        try:
            with encoded.reader() as reader:
                for start in range(0, encoded.size, CHUNK_SIZE):
                    decoder.feed(await reader.read(start, min(CHUNK_SIZE, encoded.size - start)))
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
        """Remove the name of the temporary file; open readers are not affected."""
        if self.spool is not None:
            self.spool.unlink()

    def close(self) -> None:
        """Close the temporary file. Idempotent."""
        if self.spool is not None:
            self.spool.close()


def algorithms_for(sources: Iterable[RemoteSource]) -> Collection[str]:
    """Return the digests that a file of any of these sources needs.

    A saved file has all. Others are verified only, and each digest takes 0.5 to 2 s of CPU per GB.
    """
    if any(source.saves for source in sources):
        return Artifact.DIGEST_FIELDS
    return {"sha256"}.union(*(source.digests for source in sources))


async def _new_spool(algorithms: Iterable[str]) -> Spool:
    hashers = {name: partial(pulp_hashlib.new, name) for name in algorithms}
    creation = asyncio.ensure_future(in_thread(Spool, str(settings.WORKING_DIRECTORY), hashers))
    try:
        return await asyncio.shield(creation)
    except asyncio.CancelledError:
        spool = await creation  # the thread finishes regardless: clean up after it
        spool.unlink()
        spool.close()
        raise
