"""Authorization of content requests by content guards.

The guard is called for every request, before any response about the content. Guards expect an
aiohttp request; `GuardRequest` implements the part of it that they use.

All functions block: call them in a thread of a `DatabaseExecutor`.
"""

import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from multidict import CIMultiDict
from rest_framework.request import Request as DRFRequest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from yarl import URL

from pulpcore.content_star.auth.authentication import authenticate, challenge
from pulpcore.content_star.resolve.paths import raw_path
from pulpcore.plugin.models import Distribution

log = logging.getLogger(__name__)

# Host and port (RFC 3986 section 3.2), without userinfo; underscores are allowed in host names.
HOST = re.compile(r"([\w.-]*|\[[\da-fA-F:.]+\])(:\d{0,5})?", re.ASCII)

# Raised by pulpcore's own guards, instead of PermissionError, for malformed headers: not ASCII, not
# UTF-8, JSON of an unexpected shape or depth, a certificate without a path.
MALFORMED_HEADER_ERRORS = (AssertionError, RecursionError, StopIteration, ValueError)


def authorize(request: Request, distribution: Distribution, path: str) -> None:
    """Check the request with the content guard of `distribution`, if it has one.

    `path` is relative to the content prefix and the domain.
    Raises `HTTPException` with the guard's reason: 401 with a challenge if the guard read the user
    and no credentials were sent, else 403. Other exceptions of a guard propagate, and the response
    is an error.
    """
    if distribution.content_guard is None:
        return
    # The cast guard replaces the base instance: cache entries hold the distribution.
    guard = distribution.content_guard = distribution.content_guard.cast()
    guard_request = GuardRequest(request, distribution, path)
    try:
        guard.permit(guard_request)
    except PermissionError as denial:
        log.debug("Content guard %r denied %r: %s", guard.name, guard_request.path, denial)
        if header := guard_request.challenge():
            raise HTTPException(401, str(denial), {"WWW-Authenticate": header}) from denial
        raise HTTPException(403, str(denial)) from denial
    except MALFORMED_HEADER_ERRORS as error:
        if not _comes_with_pulpcore(_raised_by(error)):
            raise
        # Without the text of the error, which may quote credentials.
        log.warning(
            "Content guard %r failed on %r and denied the request: %s",
            guard.name,
            guard_request.path,
            type(error).__name__,
        )
        raise HTTPException(403, "Access denied.") from error


class GuardRequest(Mapping[str, Any]):
    """The part of `aiohttp.web.Request` that content guards use; docs/guards.md lists it.

    As a mapping it holds `drf_request`, `user` and `auth`. Authentication runs
    with the first access to one of them, so that guards that do not use them cost nothing.
    """

    def __init__(self, request: Request, distribution: Distribution, path: str) -> None:
        self._scope = request.scope
        self._domain = distribution.pulp_domain
        self.method: str = request.method
        # UTF-8 with surrogate escapes, as in aiohttp; Starlette decodes Latin-1.
        self.headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in request.scope["headers"]
        )
        self.remote: str | None = request.client.host if request.client else None
        self.scheme: str = request.scope["scheme"]
        self.match_info = {"path": path, "pulp_domain": self._domain.name}

    @cached_property
    def rel_url(self) -> URL:
        """Return the normalized path and the query as sent, both percent-encoded."""
        return URL.build(
            path=raw_path(self._scope).decode("latin-1"),
            query_string=self._scope["query_string"].decode("latin-1"),
            encoded=True,
        )

    @cached_property
    def url(self) -> URL:
        """Return the absolute URL, percent-encoded and normalized: redirect guards sign it.

        Raises `HTTPException` 400 for an invalid `Host` (RFC 9112 section 3.2): guards parse the
        text of the URL, in which such a value could be read as a path and a query.
        """
        host = self.host
        if not HOST.fullmatch(host):
            raise HTTPException(400, "The Host header is not a valid host and port.")
        try:
            return URL.build(
                scheme=self.scheme,
                authority=host or "localhost",
                path=self.rel_url.raw_path,
                query_string=self.rel_url.raw_query_string,
                encoded=True,
            )
        except ValueError:  # a port out of range, or an invalid address
            raise HTTPException(400, "The Host header is not a valid host and port.") from None

    @property
    def host(self) -> str:
        """The `Host` header, empty if there is none."""
        return self.headers.get("Host", "")

    @property
    def path(self) -> str:
        """The decoded path of the URL."""
        return self.rel_url.path

    @property
    def query(self) -> Mapping[str, str]:
        """The parsed query of the URL."""
        return self.rel_url.query

    @property
    def query_string(self) -> str:
        """The decoded query of the URL."""
        return self.rel_url.query_string

    def challenge(self) -> str | None:
        """Return the value of `WWW-Authenticate` if the guard has read the user, else None."""
        return challenge(self._drf_request) if "_drf_request" in vars(self) else None

    @cached_property
    def _drf_request(self) -> DRFRequest:
        drf_request = authenticate(self._scope)
        drf_request.pulp_domain = self._domain
        return drf_request

    def __getitem__(self, key: str) -> Any:
        match key:
            case "drf_request":
                return self._drf_request
            case "user":
                return self._drf_request.user
            case "auth":
                return self._drf_request.auth
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("drf_request", "user", "auth"))

    def __len__(self) -> int:
        return 3


def _raised_by(error: BaseException) -> object:
    """Return the guard whose `permit` raised an exception: in a composite, the innermost one.

    Only the traceback has it, since the composite guard of pulpcore calls its members itself.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    permits = [frame for frame in frames if frame.f_code.co_name == "permit"]
    return permits[-1].f_locals.get("self") if permits else None


def _comes_with_pulpcore(guard: object) -> bool:
    return type(guard).__module__.startswith(("pulpcore.app.", "pulp_certguard."))
