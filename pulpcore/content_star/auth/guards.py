"""Authorization of content requests by content guards.

The guard is called for every request, before any response about the content. Guards expect an
aiohttp request; `GuardRequest` implements the part of it that they use.

All functions block: call them in a thread of a `DatabaseExecutor`.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property, wraps
from typing import Any

from multidict import CIMultiDict
from rest_framework.request import Request as DRFRequest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from yarl import URL

from pulpcore.content_star.auth.authentication import authenticate, challenge
from pulpcore.content_star.resolve.paths import raw_path
from pulpcore.content_star.upstream import CompositeContentGuard
from pulpcore.plugin.models import ContentGuard, Distribution

log = logging.getLogger(__name__)

# Host and port (RFC 3986 section 3.2), without userinfo; underscores are allowed in host names.
HOST = re.compile(r"([\w.-]*|\[[\da-fA-F:.]+\])(:\d{0,5})?", re.ASCII)

# Types of guards that decide by the request and their own row alone.
SELF_CONTAINED_GUARDS = frozenset(
    {
        "certguard.rhsm",
        "certguard.x509",
        "core.content_redirect",
        "core.envvar_header",
        "core.header",
    }
)

# Raised by pulpcore's own guards, instead of PermissionError, for malformed headers: not ASCII, not
# UTF-8, JSON of an unexpected shape or depth, a certificate without a path.
MALFORMED_HEADER_ERRORS = (AssertionError, RecursionError, StopIteration, ValueError)


def needs_database(guard: ContentGuard) -> bool:
    """Return whether `guard` reads the database, as far as is known: users, roles, other guards."""
    return guard.pulp_type not in SELF_CONTAINED_GUARDS


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
    except MalformedHeader as error:
        log.warning(
            "Content guard %r failed on %r and denied the request: %s",
            guard.name,
            guard_request.path,
            type(error.__cause__).__name__,
        )
        raise HTTPException(403, str(error)) from error
    except PermissionError as denial:
        log.debug("Content guard %r denied %r: %s", guard.name, guard_request.path, denial)
        if header := guard_request.challenge():
            raise HTTPException(401, str(denial), {"WWW-Authenticate": header}) from denial
        raise HTTPException(403, str(denial)) from denial


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


class MalformedHeader(PermissionError):
    """A guard of pulpcore failed on a header of the request, and so denies it.

    The text of the cause may quote credentials; this one has none.
    """

    def __init__(self) -> None:
        super().__init__("Access denied.")


@cache
def deny_malformed_headers() -> None:
    """Make pulpcore's guards raise `MalformedHeader`; the application calls it at its start.

    Replaces `permit` of the guards of pulpcore and pulp_certguard, since the composite guard calls
    its members itself: one that fails denies, and the next may permit. Not of the composite guard,
    nor of plugins' guards: their exceptions propagate.
    """
    for guard in _subclasses(ContentGuard):
        permit = vars(guard).get("permit")
        comes_with_pulpcore = guard.__module__.startswith(("pulpcore.app.", "pulp_certguard."))
        if permit and comes_with_pulpcore and guard is not CompositeContentGuard:
            guard.permit = _denying(permit)


def _denying(permit: Callable[..., None]) -> Callable[..., None]:
    @wraps(permit)
    def permit_or_deny(guard: ContentGuard, request: GuardRequest) -> None:
        try:
            permit(guard, request)
        except MALFORMED_HEADER_ERRORS as error:
            raise MalformedHeader from error

    return permit_or_deny


def _subclasses(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
