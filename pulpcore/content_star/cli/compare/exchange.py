"""A request that both content apps get, and their two responses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pulpcore.content_star.cli.compare.listing import Listing

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

ETAG = "{etag}"
"""Stands for the server's own entity tag in the header of a conditional request."""

_SHA256_ETAG = re.compile(r'"[0-9a-f]{64}"')
_PREFERS_JSON = re.compile(r"\s*application/(?:[\w.]+\+)?json", re.IGNORECASE)


class Kind(StrEnum):
    """Kinds of requests, by which latencies and faults are grouped."""

    GET = "GET"
    HEAD = "HEAD"
    RANGE = "range"
    CONDITIONAL = "conditional"
    OTHER = "other method"


@dataclass(frozen=True)
class Request:
    """A request for a path below the base URLs.

    `target` is percent-encoded, without a slash in front, with its query. `headers` are those that
    are particular to the request: credentials are added when it is sent.
    """

    target: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def kind(self) -> Kind:
        """Return the kind of request."""
        if self.method not in ("GET", "HEAD"):
            return Kind.OTHER
        if self.header("range"):
            return Kind.RANGE
        if any(name.lower().startswith("if-") for name in self.headers):
            return Kind.CONDITIONAL
        return Kind(self.method)

    def header(self, name: str) -> str:
        """Return the value of a header, empty if it is missing."""
        return next((value for key, value in self.headers.items() if key.lower() == name), "")

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def raw_path(self) -> bytes:
        """The decoded path."""
        return unquote_to_bytes(self.path)

    @property
    def is_directory(self) -> bool:
        """Whether the path ends in a slash."""
        return self.path.endswith("/") or not self.path

    @property
    def prefers_json(self) -> bool:
        """Whether `Accept` names JSON first."""
        return _PREFERS_JSON.match(self.header("accept")) is not None


@dataclass
class Response:
    """A response, without its body."""

    status: int
    headers: "CIMultiDictProxy[str] | Mapping[str, str]"
    size: int = 0
    """Bytes of the body."""

    sha256: str = ""
    """Digest of the body, which is never held in memory."""

    listing: Listing | None = None
    """The entries, if the body is a listing in HTML."""

    body_kind: str = "empty"
    """`empty`, `text`, `JSON`, `HTML` or `bytes`."""

    seconds: float = 0.0
    """From the request to the last byte."""

    broken: str = ""
    """The reason why the response did not arrive whole; the other attributes are incomplete."""

    def header(self, name: str) -> str:
        """Return the values of a header, joined as RFC 9110 section 5.3 says; empty if missing."""
        if hasattr(self.headers, "getall"):
            return ", ".join(self.headers.getall(name, ()))
        return self.headers.get(name, "")

    @property
    def is_file(self) -> bool:
        """Whether it is a success with the body of a file, or a part of it."""
        return self.status in (200, 206) and self.listing is None

    @property
    def is_error(self) -> bool:
        """Whether the status is one of a client's or a server's error."""
        return self.status >= 400

    @property
    def has_sha256_etag(self) -> bool:
        """Whether the entity tag has the form of a sha256."""
        return _SHA256_ETAG.fullmatch(self.header("etag")) is not None


@dataclass
class Exchange:
    """A request with the responses of both servers."""

    request: Request
    old: Response
    new: Response
    sha256: str = ""
    """Digest of the whole file according to the old server, if it has been asked for it."""

    listing: Listing | None = None
    """The old server's listing of the path, if it has been asked for it."""

    on_demand: bool = False
    """Whether the new server says that it has to ask a remote."""

    redirected_status: int = 0
    """Status of the old server for the target of its redirect, where the new one does not redirect.
    """

    new_etag: str = ""
    """The new server's entity tag of the path, if it has been asked for it."""

    def statuses(self, old: int, *new: int) -> bool:
        """Return whether the servers answered with these statuses."""
        return self.old.status == old and self.new.status in new
