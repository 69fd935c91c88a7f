"""ASGI responses that send an artifact or redirect to it, with validators and byte ranges."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NotRequired, TypedDict, Unpack

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.responses.body import Segment, multipart, read_whole, stream
from pulpcore.content_star.responses.conditional import Validators, evaluate, if_range_matches
from pulpcore.content_star.responses.headers import (
    SECURITY_HEADERS,
    Disposition,
    content_disposition,
    http_date,
)
from pulpcore.content_star.responses.ranges import ByteRange, RangeNotSatisfiable, parse_ranges
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    ArtifactMissing,
    InMemory,
    OnDisk,
    Readable,
    Source,
)

RawHeaders = list[tuple[bytes, bytes]]

DEFAULT_CONTENT_TYPE = "application/octet-stream"

# ASGI extension of servers that send whole files themselves, such as granian.
PATHSEND = "http.response.pathsend"

# Headers that ask for a range or set a condition; requests without any skip their evaluation.
RANGE_OR_CONDITION = frozenset(
    {
        b"range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
    }
)

_SAFE_METHODS = frozenset({"GET", "HEAD"})

# Headers that a plugin cannot replace: they follow from the file and from this response. A
# Content-Security-Policy is not among them: browsers enforce a second policy beside the first, so
# a plugin can only make it stricter.
_RESERVED_HEADERS = frozenset(
    {
        "accept-ranges",
        "connection",
        "content-length",
        "content-range",
        "etag",
        "last-modified",
        "repr-digest",
        "transfer-encoding",
        "x-content-type-options",
        "x-pulp-artifact-size",
    }
)

_NOT_MODIFIED_HEADERS = frozenset(
    {b"cache-control", b"content-location", b"etag", b"expires", b"vary"}
)

_RAW_SECURITY_HEADERS: RawHeaders = [
    (name.encode("latin-1"), value.encode("latin-1")) for name, value in SECURITY_HEADERS.items()
]


class RepresentationArguments(TypedDict):
    """Keyword arguments of `Representation`."""

    size: int
    sha256: str | None
    last_modified: datetime | None
    filename: str
    etag: NotRequired[str]
    headers: NotRequired[Mapping[str, str]]
    disposition: NotRequired[Disposition]


class Representation:
    """Headers and validators of an artifact, independent of where its bytes are stored.

    `size` is in bytes; `last_modified` is an aware datetime, or None if unknown. The entity tag is
    the sha256; where that is None, `etag` may be another one, with its quotes and with `W/` if it
    is weak. `headers` are added to the response: Content-Type and Content-Disposition replace the
    defaults, those in `_RESERVED_HEADERS` are ignored.
    """

    def __init__(
        self,
        *,
        size: int,
        sha256: str | None,
        last_modified: datetime | None,
        filename: str,
        etag: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
        disposition: Disposition = "attachment",
    ) -> None:
        self.size = size
        if sha256 is not None:
            etag = f'"{sha256}"'
        self.validators = Validators(etag, last_modified)
        extra = {name.lower(): value for name, value in headers.items()}
        self.content_type = extra.pop("content-type", DEFAULT_CONTENT_TYPE)
        if "content-disposition" not in extra:
            extra["content-disposition"] = content_disposition(filename, disposition)
        self._headers: RawHeaders = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in extra.items()
            if name not in _RESERVED_HEADERS
        ]
        self._headers += _RAW_SECURITY_HEADERS
        if etag:
            self._headers.append((b"etag", etag.encode("latin-1")))
        if last_modified is not None:
            self._headers.append((b"last-modified", http_date(last_modified).encode("latin-1")))
        self._headers.append((b"x-pulp-artifact-size", b"%d" % size))
        if sha256 is not None:
            self._headers.append((b"repr-digest", _repr_digest(sha256)))
        self._etag = self.validators.etag.encode("latin-1")
        self._not_modified = [item for item in self._headers if item[0] in _NOT_MODIFIED_HEADERS]

    def _precondition(self, scope: Scope, headers: Headers) -> int | None:
        """Return the status that a precondition decides, 304 or 412, or None (13.2)."""
        return evaluate(scope["method"], headers, self.validators)

    async def _send_precondition(self, status: int, send: Send) -> None:
        """Send 304 with the headers that update a cached response (15.4.5), or 412 (15.5.13)."""
        headers = self._not_modified if status == 304 else [(b"content-length", b"0")]
        await _send_complete(status, headers, b"", send)


class ArtifactResponse(Representation):
    """ASGI application that sends an artifact: 200, 206, 304, 412 or 416.

    `source` opens its bytes; the other arguments are those of `Representation`. An instance holds
    no state of a request, so it can be cached and called concurrently.

    Calling raises ArtifactMissing and StoreUnavailable before the response has started, and OSError
    also after that, for the server to close the connection.
    """

    def __init__(self, source: Source, **representation: Unpack[RepresentationArguments]) -> None:
        super().__init__(**representation)
        self.source = source
        self._headers.append((b"accept-ranges", b"bytes"))
        self._full_headers: RawHeaders = [
            *self._headers,
            (b"content-type", self.content_type.encode("latin-1")),
            (b"content-length", b"%d" % self.size),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if found := self.immediate_response(scope):
            return await _send_complete(*found, send)
        ranges = None
        if not RANGE_OR_CONDITION.isdisjoint([name for name, _ in scope["headers"]]):
            headers = Headers(raw=scope["headers"])
            status = self._precondition(scope, headers)
            if status is not None:
                return await self._send_precondition(status, send)
            try:
                ranges = self._ranges(scope["method"], headers)
            except RangeNotSatisfiable as error:
                return await self._send_not_satisfiable(error, send)

        status, response_headers, segments = self._representation(ranges)
        parts = [] if scope["method"] == "HEAD" else segments
        with await self._open(parts) as file:
            if status == 200 and self.size > CHUNK_SIZE and parts and self._can_send_path(scope):
                start = {"type": "http.response.start", "status": 200, "headers": response_headers}
                await send(start)
                return await send({"type": PATHSEND, "path": self.source.name})
            await _send_file(file, status, response_headers, segments, scope, receive, send)

    def _can_send_path(self, scope: Scope) -> bool:
        return PATHSEND in (scope.get("extensions") or {}) and isinstance(self.source, OnDisk)

    def immediate_response(self, scope: Scope) -> tuple[int, RawHeaders, bytes] | None:
        """Return status, headers and body of a response that needs no I/O, or None.

        These are the whole of an in-memory file, and 304 to an If-None-Match of exactly this
        entity tag. For anything else call the response.
        """
        special = [header for header in scope["headers"] if header[0] in RANGE_OR_CONDITION]
        if special:
            is_current = special == [(b"if-none-match", self._etag)]
            return (
                (304, self._not_modified, b"")
                if is_current and scope["method"] in _SAFE_METHODS
                else None
            )
        if not isinstance(self.source, InMemory):
            return None
        if scope["method"] == "HEAD":
            return (200, self._full_headers, b"") if self.source.seen else None
        body = self.source.data
        return None if body is None else (200, self._full_headers, body)

    def _ranges(self, method: str, headers: Headers) -> list[ByteRange] | None:
        """Return the requested ranges, or None to send the whole file.

        Range is defined for GET only (14.2); it is ignored if the request has more than one Range
        line, or if If-Range does not match (13.1.5). Raises RangeNotSatisfiable.
        """
        values = headers.getlist("range")
        if method != "GET" or len(values) != 1:
            return None
        if not if_range_matches(headers, self.validators):
            return None
        return parse_ranges(values[0], self.size)

    def _representation(
        self, ranges: Sequence[ByteRange] | None
    ) -> tuple[int, RawHeaders, list[Segment]]:
        """Return status, headers and body: the whole, one part (15.3.7.1), several (15.3.7.2)."""
        if ranges is None:
            return 200, self._full_headers, [ByteRange(0, self.size)]
        content_type = self.content_type
        headers = self._headers.copy()
        segments: list[Segment]
        if len(ranges) == 1:
            segments = [ranges[0]]
            headers.append((b"content-range", ranges[0].content_range(self.size).encode()))
        else:
            content_type, segments = multipart(ranges, self.size, content_type)
        headers.append((b"content-type", content_type.encode("latin-1")))
        headers.append((b"content-length", b"%d" % sum(map(len, segments))))
        return 206, headers, segments

    async def _open(self, segments: Sequence[Segment]) -> Readable:
        parts = [segment for segment in segments if isinstance(segment, ByteRange)]
        file = await self.source.open(parts)
        if file.size != self.size:
            with file:
                raise ArtifactMissing(self.source.name)
        return file

    async def _send_not_satisfiable(self, error: RangeNotSatisfiable, send: Send) -> None:
        headers = [
            (b"content-range", error.content_range.encode()),
            (b"accept-ranges", b"bytes"),
            (b"content-length", b"0"),
        ]
        await _send_complete(416, headers, b"", send)


class ArtifactRedirect(Representation):
    """ASGI application that redirects to `url`, where the artifact is: 302, 304 or 412.

    `url` is percent-encoded and may be signed; it is sent unchanged, since encoding it again would
    break the signature (pulpcore issue 2964). It expires, so the response is `no-store`.
    """

    def __init__(self, url: str, **representation: Unpack[RepresentationArguments]) -> None:
        super().__init__(**representation)
        # Repr-Digest would be that of the artifact, not of the redirect's empty representation.
        excluded = (b"cache-control", b"expires", b"repr-digest")
        self._redirect_headers = [header for header in self._headers if header[0] not in excluded]
        self._redirect_headers.append((b"cache-control", b"no-store"))
        self._redirect_headers.append((b"location", url.encode("ascii")))
        self._redirect_headers.append((b"content-length", b"0"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = self._precondition(scope, Headers(raw=scope["headers"]))
        if status is not None:
            return await self._send_precondition(status, send)
        await _send_complete(302, self._redirect_headers, b"", send)


def _repr_digest(sha256: str) -> bytes:
    """Format Repr-Digest, which is of the whole representation in a 206 too (RFC 9530)."""
    return b"sha-256=:%b:" % b64encode(bytes.fromhex(sha256))


async def _send_file(
    file: Readable,
    status: int,
    headers: RawHeaders,
    segments: Sequence[Segment],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    if scope["method"] == "HEAD":
        return await _send_complete(status, headers, b"", send)
    if sum(map(len, segments)) <= CHUNK_SIZE:
        # Read before the response starts, so that a read error still gets an error response.
        body = await read_whole(file, segments)
        return await _send_complete(status, headers, body, send)
    await send({"type": "http.response.start", "status": status, "headers": headers.copy()})
    await stream(file, segments, scope, receive, send)


async def send_empty(status: int, headers: RawHeaders, send: Send) -> None:
    """Send a response without a body."""
    await _send_complete(status, headers, b"", send)


async def _send_complete(status: int, headers: RawHeaders, body: bytes, send: Send) -> None:
    # Copied because middleware adds to the list, which belongs to all requests.
    await send({"type": "http.response.start", "status": status, "headers": headers.copy()})
    await send({"type": "http.response.body", "body": body})
