"""The response for an artifact on local disk: the one place where its HTTP comes together."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.responses.body import Segment, multipart, read_whole, stream
from pulpcore.content_star.responses.conditional import Validators, evaluate, if_range_matches
from pulpcore.content_star.responses.disk import STEP, LocalFile
from pulpcore.content_star.responses.headers import (
    SECURITY_HEADERS,
    Disposition,
    content_disposition,
    http_date,
)
from pulpcore.content_star.responses.ranges import ByteRange, RangeNotSatisfiable, parse_ranges

RawHeaders = list[tuple[bytes, bytes]]

# Most requests carry none of these and are spared the search for each.
_SPECIAL = frozenset(
    {
        b"range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
    }
)

# What follows from the file and from this response's own decisions, whatever a plugin says. A
# Content-Security-Policy is not among them: browsers enforce a second one beside ours, so a plugin
# can make the policy stricter and never weaker.
_RESERVED = frozenset(
    {
        "accept-ranges",
        "connection",
        "content-length",
        "content-range",
        "etag",
        "last-modified",
        "transfer-encoding",
        "x-content-type-options",
        "x-pulp-artifact-size",
    }
)

_IN_NOT_MODIFIED = frozenset({b"cache-control", b"content-location", b"etag", b"expires", b"vary"})

_SECURITY: RawHeaders = [
    (name.encode("latin-1"), value.encode("latin-1")) for name, value in SECURITY_HEADERS.items()
]


class ArtifactMissing(Exception):
    """An artifact's file is not there, or is not the one: its size is another."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Artifact is missing or damaged: {path}")
        self.path = path


class ArtifactResponse:
    """Sends the file at `path` as an ASGI application: 200, 206, 304, 412 or 416.

    `size` in bytes and `sha256` are what the file must have; `last_modified` is aware, or None when
    unknown. `headers` adds to the response; Content-Type and Content-Disposition replace the
    defaults, and headers that follow from the file are ours alone. Nothing is kept from one request
    to the next, so an instance can be called any number of times, even at once.

    Calling raises ArtifactMissing before anything is sent. An error that comes later is raised too
    (OSError, FileTruncated), for the server to cut the connection.
    """

    def __init__(
        self,
        path: str,
        *,
        size: int,
        sha256: str,
        last_modified: datetime | None,
        filename: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        disposition: Disposition = "attachment",
    ) -> None:
        self.path = path
        self.size = size
        self.validators = Validators(f'"{sha256}"', last_modified)
        extra = {name.lower(): value for name, value in headers.items()}
        self.content_type = extra.pop("content-type", "application/octet-stream")
        if "content-disposition" not in extra:
            extra["content-disposition"] = content_disposition(filename, disposition)
        self._headers: RawHeaders = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in extra.items()
            if name not in _RESERVED
        ]
        self._headers += _SECURITY
        self._headers.append((b"etag", self.validators.etag.encode("latin-1")))
        if last_modified is not None:
            self._headers.append((b"last-modified", http_date(last_modified).encode("latin-1")))
        self._headers.append((b"accept-ranges", b"bytes"))
        self._headers.append((b"x-pulp-artifact-size", b"%d" % size))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ranges = None
        if not _SPECIAL.isdisjoint([name for name, _ in scope["headers"]]):
            headers = Headers(raw=scope["headers"])
            status = evaluate(scope["method"], headers, self.validators)
            if status is not None:
                return await self._send_precondition(status, send)
            try:
                ranges = self._ranges(scope["method"], headers)
            except RangeNotSatisfiable as error:
                return await self._send_not_satisfiable(error, send)

        status, response_headers, segments = self._representation(ranges)
        with await self._open() as file:
            await _send_file(file, status, response_headers, segments, scope, receive, send)

    def _ranges(self, method: str, headers: Headers) -> list[ByteRange] | None:
        """Ranges are defined for GET alone (14.2); more than one Range line is no range at all."""
        values = headers.getlist("range")
        if method != "GET" or len(values) != 1:
            return None
        if not if_range_matches(headers, self.validators):
            return None
        return parse_ranges(values[0], self.size)

    def _representation(
        self, ranges: Sequence[ByteRange] | None
    ) -> tuple[int, RawHeaders, list[Segment]]:
        """The whole file, one part of it (15.3.7.1) or several (15.3.7.2)."""
        content_type = self.content_type
        headers = self._headers.copy()
        segments: list[Segment]
        if ranges is None:
            segments = [ByteRange(0, self.size)]
        elif len(ranges) == 1:
            segments = [ranges[0]]
            headers.append((b"content-range", ranges[0].content_range(self.size).encode()))
        else:
            content_type, segments = multipart(ranges, self.size, content_type)
        headers.append((b"content-type", content_type.encode("latin-1")))
        headers.append((b"content-length", b"%d" % sum(map(len, segments))))
        return 200 if ranges is None else 206, headers, segments

    async def _open(self) -> LocalFile:
        """Only what says that this artifact is not here is taken for that: a disk that fails, or
        a file we may not read, is an error of the server's."""
        try:
            file = await LocalFile.open(self.path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ArtifactMissing(self.path) from error
        if file.size != self.size:
            file.close()
            raise ArtifactMissing(self.path)
        return file

    async def _send_precondition(self, status: int, send: Send) -> None:
        """304 with what a cache needs to refresh what it has (15.4.5), or 412 (15.5.13)."""
        headers = [header for header in self._headers if header[0] in _IN_NOT_MODIFIED]
        if status == 412:
            headers = [(b"content-length", b"0")]
        await _send_empty(status, headers, send)

    async def _send_not_satisfiable(self, error: RangeNotSatisfiable, send: Send) -> None:
        headers = [
            (b"content-range", error.content_range.encode()),
            (b"accept-ranges", b"bytes"),
            (b"content-length", b"0"),
        ]
        await _send_empty(416, headers, send)


async def _send_file(
    file: LocalFile,
    status: int,
    headers: RawHeaders,
    segments: Sequence[Segment],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    start = {"type": "http.response.start", "status": status, "headers": headers}
    if scope["method"] == "HEAD":
        return await _send_empty(status, headers, send)
    if sum(map(len, segments)) <= STEP:
        # Read before the first message: what goes wrong can still be answered properly.
        body = await read_whole(file, segments)
        await send(start)
        return await send({"type": "http.response.body", "body": body})
    await send(start)
    await stream(file, segments, receive, send)


async def _send_empty(status: int, headers: RawHeaders, send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
