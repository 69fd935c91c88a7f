"""Sample responses of the code that serves content: the schema has their statuses and headers.

The code is called as for a request, with the middleware that adds headers, but without a database.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.cache.cdn_headers import CACHE_CONTROL
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.negotiation import VaryOnAccept, preferred_form
from pulpcore.content_star.listings.page import page_response
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.middleware.cdn_headers import CDNHeaders
from pulpcore.content_star.middleware.correlation_id import CorrelationId
from pulpcore.content_star.middleware.errors import as_http, render
from pulpcore.content_star.middleware.health import json_probe_response, text_probe_response
from pulpcore.content_star.remote.errors import RemoteTimeout, RemoteUnavailable
from pulpcore.content_star.remote.pull_through.response import FORWARDED_HEADERS
from pulpcore.content_star.remote.response import send_with_cache_status
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.responses.artifact import (
    ArtifactRedirect,
    ArtifactResponse,
    RepresentationArguments,
)
from pulpcore.content_star.responses.body import receive_never
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import InMemory, Readable
from pulpcore.content_star.responses.text import MIN_COMPRESSED_SIZE, compress
from pulpcore.content_star.schema.pages import document_response
from pulpcore.content_star.storage.memory import BytesReader
from pulpcore.content_star.views import options_response

DATA = b"content"

# Each form of a directory, and of an error: page, list of links, names, JSON.
ACCEPTS = ("text/html", "*/*", "text/plain", "application/json")

# Requests for a file, by their statuses: 200, 206 with one and with two parts, 304, 412, 416.
FILE_REQUESTS: tuple[dict[str, str], ...] = (
    {},
    {"range": "bytes=0-1"},
    {"range": "bytes=0-1,4-5"},
    {"if-none-match": "*"},
    {"if-match": '"other"'},
    {"range": "bytes=99-"},
)

FAILURES: dict[str, Exception] = {
    "The path, the query or a header is invalid.": HTTPException(400),
    "The content guard needs credentials.": HTTPException(401, headers={"WWW-Authenticate": ""}),
    "The content guard denies access.": PermissionDenied(),
    "There is no such content.": HTTPException(404),
    "The path or the query is too long.": HTTPException(414),
    "Too many passwords are being checked.": HTTPException(429, headers={"Retry-After": "1"}),
    "Internal error; the log has details under the correlation id.": Exception(),
    "The plugin of the distribution is not served.": HTTPException(501),
    "No remote could send the file.": RemoteUnavailable(),
    "The database or the storage is not available.": OperationalError(),
    "The remote timed out.": RemoteTimeout(),
}

Endpoint = Callable[[Request], ASGIApp]


@dataclass
class Sample:
    """Responses with one status: the names of their headers, in lower case."""

    description: str = ""
    headers: set[str] = field(default_factory=set)


class Samples(dict[int, Sample]):
    """Sample responses by status."""

    def __init__(self, *infos: dict[str, object]) -> None:
        """`infos` are fields of the request info; by default of distributions."""
        self.infos = infos or (PUBLIC, STALE, GUARDED)

    async def add(
        self, endpoint: Endpoint, method: str = "GET", description: str = "", **headers: str
    ) -> None:
        """Call `endpoint` with these headers of the request, and add the responses."""
        for info in self.infos:
            status, sent = await _call(endpoint, _scope(method, headers, info))
            self.setdefault(status, Sample(description)).headers |= sent


# Fields of `RequestInfo`: of requests to a public distribution, also while the database does not
# answer, to a guarded one, and to none.
PUBLIC: dict[str, object] = {
    "pulp_type": "core.sample",
    "surrogate_keys": ("sample",),
    "cache": "HIT",
}
STALE = PUBLIC | {"stale_seconds": 1.0}
GUARDED = PUBLIC | {"vary": ("Cookie",)}
NO_DISTRIBUTION: dict[str, object] = {}


async def file_samples() -> Samples:
    """Return the responses for a file: 200, 206, 301, 302, 304, 412 and 416."""
    samples = Samples()
    for headers in FILE_REQUESTS:
        for endpoint in (_file, _remote_file, _redirect):
            await samples.add(endpoint, **headers)
    await samples.add(redirect_with_slash)
    for status in (200, 206):
        samples[status].headers |= {name.lower() for name in FORWARDED_HEADERS[1:]}
    return samples


async def listing_samples() -> Samples:
    """Return the responses for a directory, an index, or facts about a file: 200, 304 and 412."""
    samples = Samples()
    for accept in ACCEPTS:
        for headers in ({}, {"if-none-match": "*"}, {"if-match": '"other"'}):
            common = {"accept": accept, "accept-encoding": "gzip", **headers}
            await samples.add(_listing, **common)
            await samples.add(_listing, "HEAD", **common)
    return samples


async def failure_samples() -> Samples:
    """Return the responses for errors."""
    samples = Samples()
    for description, error in FAILURES.items():
        for accept in ACCEPTS:
            await samples.add(partial(_failure, error), description=description, accept=accept)
    return samples


async def options_samples() -> Samples:
    """Return the response to OPTIONS."""
    samples = Samples()
    await samples.add(options_response, "OPTIONS")
    return samples


async def probe_samples() -> Samples:
    """Return the responses of the probes: 200 and 503."""
    samples = Samples(NO_DISTRIBUTION)
    for problem in (None, "problem"):
        text = text_probe_response(problem)
        json = json_probe_response(problem, "x" * MIN_COMPRESSED_SIZE)
        for response in (text, json):
            await samples.add(partial(_compressed, response), **{"accept-encoding": "gzip"})
    return samples


async def document_samples() -> Samples:
    """Return the response of the document: 200."""
    samples = Samples(NO_DISTRIBUTION)
    endpoint = partial(document_response, body=DATA, media_type="application/json")
    await samples.add(endpoint, **{"accept-encoding": "gzip"})
    return samples


class _Source(InMemory):
    """Source of the sample file."""

    name = "sample"

    def __init__(self) -> None:
        self.data = DATA
        self.seen = True

    async def open(self, parts: Sequence[ByteRange]) -> Readable:
        return BytesReader(DATA, len(DATA))


def _file(request: Request) -> ASGIApp:
    return ArtifactResponse(_Source(), **_representation(request))


def _redirect(request: Request) -> ASGIApp:
    return ArtifactRedirect("https://storage/", **_representation(request))


def _remote_file(request: Request) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await _file(request)(scope, receive, partial(send_with_cache_status, send))

    return respond


def _representation(request: Request) -> RepresentationArguments:
    # Of a distribution with a guard, whose plugin lets caches keep it: that adds `Vary`.
    is_guarded = bool(request_info(request.scope).vary)
    return {
        "size": len(DATA),
        "sha256": "0" * 64,
        "last_modified": datetime.now(UTC),
        "filename": "sample",
        "headers": {"Cache-Control": "max-age=60" if is_guarded else CACHE_CONTROL},
    }


def _failure(error: Exception, request: Request) -> ASGIApp:
    return render(request, as_http(error))


def _listing(request: Request) -> ASGIApp:
    response: ASGIApp
    if request.method == "HEAD":
        response = head_for(request)
    elif preferred_form(request) == "page":
        response = page_response(request, DATA)
    else:
        response = listing_for(request, [DirectoryEntry("sample")])
    return VaryOnAccept(response)


def _compressed(response: Response, request: Request) -> ASGIApp:
    return compress(request.scope, response)


def _scope(method: str, headers: Mapping[str, str], info: Mapping[str, object]) -> Scope:
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": f"{settings.CONTENT_PATH_PREFIX}sample",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    for name, value in info.items():
        setattr(request_info(scope), name, value)
    return scope


async def _call(endpoint: Endpoint, scope: Scope) -> tuple[int, set[str]]:
    """Return the status and the names of the headers that the middleware sends."""
    started: list[Message] = []

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint(Request(scope))(scope, receive, send)

    async def send(message: Message) -> None:
        started.append(message)

    await CorrelationId(CDNHeaders(respond))(scope, receive_never, send)
    names = {name.decode() for name, _ in started[0]["headers"]}
    return started[0]["status"], names - {"content-type"}
