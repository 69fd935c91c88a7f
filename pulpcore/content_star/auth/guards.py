"""Content guards, and the request that they are given.

Guards decide on every request, and before anything else is said about the content. They were
written for the request of an aiohttp server; `GuardRequest` has the part of it that they use.

Everything here blocks and runs behind the database door.
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

from pulpcore.app.models import Distribution
from pulpcore.content_star.auth.authentication import authenticate, challenge
from pulpcore.content_star.resolve.paths import raw_path

log = logging.getLogger(__name__)

# Host and port of RFC 3986 section 3.2, without user information; names may have underscores.
HOST = re.compile(r"([\w.-]*|\[[\da-fA-F:.]+\])(:\d{0,5})?", re.ASCII)

# What guards that come with pulpcore raise, instead of PermissionError, about headers that make no
# sense: not ASCII, not UTF-8, JSON of another shape or too deep, a certificate without a path.
STUMBLES = (AssertionError, RecursionError, StopIteration, ValueError)


def authorize(request: Request, distribution: Distribution, path: str) -> None:
    """Ask the content guard of `distribution`, if it has one, to let the request pass.

    `path` is the one below the content prefix and the domain.
    Raises `HTTPException` with the guard's reason: 401 if it asked for the user and no credentials
    were sent, so that clients ask for them, else 403. Any other exception of a guard is not
    caught here: it ends in an error, and nothing is served.
    """
    if distribution.content_guard is None:
        return
    # Its own kind, which stays with the distribution: plans keep both.
    guard = distribution.content_guard = distribution.content_guard.cast()
    seen = GuardRequest(request, distribution, path)
    try:
        guard.permit(seen)
    except PermissionError as denial:
        log.debug("Guard %r denied %r: %s", guard.name, seen.path, denial)
        if header := seen.challenge():
            raise HTTPException(401, str(denial), {"WWW-Authenticate": header}) from denial
        raise HTTPException(403, str(denial)) from denial
    except STUMBLES as error:
        if not _comes_with_pulpcore(_raised_by(error)):
            raise
        log.warning("Guard %r stumbled over %r: %r", guard.name, seen.path, type(error))
        raise HTTPException(403, "Access denied.") from error


class GuardRequest(Mapping[str, Any]):
    """The surface of `aiohttp.web.Request` that content guards use; docs/guards.md lists it.

    As a mapping it holds `drf_request`, `user` and `auth`. The user is authenticated when one of
    them is first asked for, so that requests whose guard does not care pay nothing.
    """

    def __init__(self, request: Request, distribution: Distribution, path: str) -> None:
        self._scope = request.scope
        self._domain = distribution.pulp_domain
        self.method: str = request.method
        # As aiohttp decodes them; Starlette's are Latin-1.
        self.headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in request.scope["headers"]
        )
        self.remote: str | None = request.client.host if request.client else None
        self.scheme: str = request.scope["scheme"]
        self.match_info = {"path": path, "pulp_domain": self._domain.name}

    @cached_property
    def rel_url(self) -> URL:
        """Path, normalized, and query as the client sent it, still percent-encoded."""
        return URL.build(
            path=raw_path(self._scope).decode("latin-1"),
            query_string=self._scope["query_string"].decode("latin-1"),
            encoded=True,
        )

    @cached_property
    def url(self) -> URL:
        """The URL with these, still percent-encoded: redirect guards sign it, normalized.

        Raises `HTTPException` 400 for a `Host` that is none (RFC 9112 section 3.2): guards parse
        the text of the URL, in which it could pass for a path and a query.
        """
        host = self.host
        if not HOST.fullmatch(host):
            raise HTTPException(400, "The Host header is not a host.")
        try:
            return URL.build(
                scheme=self.scheme,
                authority=host or "localhost",
                path=self.rel_url.raw_path,
                query_string=self.rel_url.raw_query_string,
                encoded=True,
            )
        except ValueError:  # a port that is too large, an address that is none
            raise HTTPException(400, "The Host header is not a host.") from None

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
        """Return the `WWW-Authenticate` to ask for credentials, if the guard looked for some."""
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
    """Return the guard out of whose `permit` an exception came, the innermost one of composites."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    permits = [frame for frame in frames if frame.f_code.co_name == "permit"]
    return permits[-1].f_locals.get("self") if permits else None


def _comes_with_pulpcore(guard: object) -> bool:
    return type(guard).__module__.startswith(("pulpcore.app.", "pulp_certguard."))
