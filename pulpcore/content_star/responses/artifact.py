"""The responses for an artifact: the one place where its HTTP comes together."""

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
    STEP,
    ArtifactMissing,
    InMemory,
    OnDisk,
    Readable,
    Source,
)

RawHeaders = list[tuple[bytes, bytes]]

# ASGI's extension for servers that send whole files themselves (granian does).
PATHSEND = "http.response.pathsend"

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

_SAFE = frozenset({"GET", "HEAD"})

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
        "repr-digest",
        "transfer-encoding",
        "x-content-type-options",
        "x-pulp-artifact-size",
    }
)

_IN_NOT_MODIFIED = frozenset({b"cache-control", b"content-location", b"etag", b"expires", b"vary"})

_SECURITY: RawHeaders = [
    (name.encode("latin-1"), value.encode("latin-1")) for name, value in SECURITY_HEADERS.items()
]


class RepresentationArguments(TypedDict):
    """What `Representation` is made of."""

    size: int
    sha256: str | None
    last_modified: datetime | None
    filename: str
    etag: NotRequired[str]
    headers: NotRequired[Mapping[str, str]]
    disposition: NotRequired[Disposition]


class Representation:
    """What HTTP says of an artifact, wherever its bytes are: its headers and its validators.

    `size` in bytes and `sha256` are what the artifact has; `last_modified` is aware, or None when
    unknown. Where the sha256 is unknown, `etag` may be what else tells one version from another: an
    entity tag with its quotes, weak ones with `W/`. `headers` adds to the response; Content-Type
    and Content-Disposition replace the defaults, and headers that follow from the artifact are ours
    alone.
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
        self.content_type = extra.pop("content-type", "application/octet-stream")
        if "content-disposition" not in extra:
            extra["content-disposition"] = content_disposition(filename, disposition)
        self._headers: RawHeaders = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in extra.items()
            if name not in _RESERVED
        ]
        self._headers += _SECURITY
        if etag:
            self._headers.append((b"etag", etag.encode("latin-1")))
        if last_modified is not None:
            self._headers.append((b"last-modified", http_date(last_modified).encode("latin-1")))
        self._headers.append((b"x-pulp-artifact-size", b"%d" % size))
        if sha256 is not None:
            self._headers.append((b"repr-digest", _repr_digest(sha256)))
        self._etag = self.validators.etag.encode("latin-1")
        self._not_modified = [item for item in self._headers if item[0] in _IN_NOT_MODIFIED]

    def _precondition(self, scope: Scope, headers: Headers) -> int | None:
        """The status that preconditions ask for instead of the artifact."""
        return evaluate(scope["method"], headers, self.validators)

    async def _send_precondition(self, status: int, send: Send) -> None:
        """304 with what a cache needs to refresh what it has (15.4.5), or 412 (15.5.13)."""
        headers = self._not_modified if status == 304 else [(b"content-length", b"0")]
        await _send_at_once(status, headers, b"", send)


class ArtifactResponse(Representation):
    """Sends an artifact as an ASGI application: 200, 206, 304, 412 or 416.

    `source` is where its bytes are; the other arguments are those of `Representation`. Nothing is
    kept from one request to the next, so an instance can be called any number of times, even at
    once.

    Calling raises ArtifactMissing and StoreUnavailable before anything is sent. An error that comes
    later is raised too (OSError), for the server to cut the connection.
    """

    def __init__(self, source: Source, **representation: Unpack[RepresentationArguments]) -> None:
        super().__init__(**representation)
        self.source = source
        self._headers.append((b"accept-ranges", b"bytes"))
        self._whole_headers: RawHeaders = [
            *self._headers,
            (b"content-type", self.content_type.encode("latin-1")),
            (b"content-length", b"%d" % self.size),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if found := self.at_once(scope):
            return await _send_at_once(*found, send)
        ranges = None
        if not _SPECIAL.isdisjoint([name for name, _ in scope["headers"]]):
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
            if status == 200 and self.size > STEP and parts and self._can_send_path(scope):
                start = {"type": "http.response.start", "status": 200, "headers": response_headers}
                await send(start)
                return await send({"type": PATHSEND, "path": self.source.name})
            await _send_file(file, status, response_headers, segments, scope, receive, send)

    def _can_send_path(self, scope: Scope) -> bool:
        return PATHSEND in (scope.get("extensions") or {}) and isinstance(self.source, OnDisk)

    def at_once(self, scope: Scope) -> tuple[int, RawHeaders, bytes] | None:
        """Return status, headers and body where nothing has to be opened or weighed.

        That is the whole of a file in memory, and 304 for most who ask with what they have. None
        for all else: calling the response knows what to do.
        """
        special = [header for header in scope["headers"] if header[0] in _SPECIAL]
        if special:
            asks = special == [(b"if-none-match", self._etag)]
            return (304, self._not_modified, b"") if asks and scope["method"] in _SAFE else None
        if not isinstance(self.source, InMemory):
            return None
        if scope["method"] == "HEAD":
            return (200, self._whole_headers, b"") if self.source.seen else None
        body = self.source.data
        return None if body is None else (200, self._whole_headers, body)

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
        if ranges is None:
            return 200, self._whole_headers, [ByteRange(0, self.size)]
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
        await _send_at_once(416, headers, b"", send)


class ArtifactRedirect(Representation):
    """Sends the client to `url` for the artifact: 302, 304 or 412.

    `url` is sent as it is, percent-encoded and signed: encoding it again would break the signature
    (pulpcore issue 2964). Nobody may store an answer whose URL expires.
    """

    def __init__(self, url: str, **representation: Unpack[RepresentationArguments]) -> None:
        super().__init__(**representation)
        # The digest is not that of a redirect's own, empty representation.
        left_out = (b"cache-control", b"expires", b"repr-digest")
        self._redirect = [header for header in self._headers if header[0] not in left_out]
        self._redirect.append((b"cache-control", b"no-store"))
        self._redirect.append((b"location", url.encode("ascii")))
        self._redirect.append((b"content-length", b"0"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = self._precondition(scope, Headers(raw=scope["headers"]))
        if status is not None:
            return await self._send_precondition(status, send)
        await _send_at_once(302, self._redirect, b"", send)


def _repr_digest(sha256: str) -> bytes:
    """Format a digest of the whole representation, also beside a part of it (RFC 9530)."""
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
        return await _send_at_once(status, headers, b"", send)
    if sum(map(len, segments)) <= STEP:
        # Read before the first message: what goes wrong can still be answered properly.
        body = await read_whole(file, segments)
        return await _send_at_once(status, headers, body, send)
    await send({"type": "http.response.start", "status": status, "headers": headers.copy()})
    await stream(file, segments, receive, send)


async def send_empty(status: int, headers: RawHeaders, send: Send) -> None:
    """Send an answer without a body."""
    await _send_at_once(status, headers, b"", send)


async def _send_at_once(status: int, headers: RawHeaders, body: bytes, send: Send) -> None:
    # A copy of what is sent again: middleware adds to it.
    await send({"type": "http.response.start", "status": status, "headers": headers.copy()})
    await send({"type": "http.response.body", "body": body})
