"""Content guards, and the request that they are given.

Guards decide on every request, and before anything else is said about the content. They were
written for the request of an aiohttp server; `GuardRequest` has the part of it that they use.

Everything here blocks and runs behind the database door.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from io import BytesIO
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import DataError
from multidict import CIMultiDict
from rest_framework.exceptions import APIException
from rest_framework.request import Request as DRFRequest
from rest_framework.views import APIView
from starlette.exceptions import HTTPException
from starlette.requests import Request
from yarl import URL

from pulpcore.app.models import Distribution
from pulpcore.content_star.locate import raw_path

log = logging.getLogger(__name__)


def authorize(request: Request, distribution: Distribution, path: str) -> None:
    """Ask the content guard of `distribution`, if it has one, to let the request pass.

    `path` is the one below the content prefix and the domain.
    Raises `HTTPException` 403 with the guard's reason. Any other exception of a guard is not
    caught here: it ends in an error, and nothing is served.
    """
    guard = distribution.content_guard
    if guard is None:
        return
    try:
        guard.cast().permit(GuardRequest(request, distribution, path))
    except PermissionError as denial:
        log.debug("Guard %r denied %r: %s", guard.name, request.url.path, denial)
        raise HTTPException(403, str(denial)) from denial


class GuardRequest(Mapping[str, Any]):
    """The surface of `aiohttp.web.Request` that content guards use.

    As a mapping it holds `drf_request`, `user` and `auth`. The user is authenticated when one of
    them is first asked for, so that requests whose guard does not care pay nothing.
    """

    def __init__(self, request: Request, distribution: Distribution, path: str) -> None:
        self._scope = request.scope
        self._domain = distribution.pulp_domain
        self.method: str = request.method
        self.headers = CIMultiDict(request.headers.items())
        self.remote: str | None = request.client.host if request.client else None
        self.scheme: str = request.url.scheme
        self.match_info = {"path": path, "pulp_domain": self._domain.name}

    @cached_property
    def url(self) -> URL:
        """The URL as the client sent it, still percent-encoded: redirect guards sign it."""
        return URL.build(
            scheme=self.scheme,
            authority=self.headers.get("Host", "localhost"),
            path=raw_path(self._scope).decode("latin-1"),
            query_string=self._scope["query_string"].decode("latin-1"),
            encoded=True,
        )

    @property
    def path(self) -> str:
        """The decoded path of the URL."""
        return self.url.path

    @property
    def query(self) -> Mapping[str, str]:
        """The parsed query of the URL."""
        return self.url.query

    @cached_property
    def _drf_request(self) -> DRFRequest:
        """The request with its user. Raises `HTTPException` 400 for headers that make no sense."""
        try:
            drf_request = APIView().initialize_request(ASGIRequest(self._scope, BytesIO()))
            APIView().perform_authentication(drf_request)
        except APIException as error:
            # As upstream: who fails to authenticate is anonymous, and the guard decides.
            log.warning("Authentication failed for %r: %s", self.path, error)
        except (ValueError, DataError) as error:
            # A parameter of Content-Type in no known encoding, or a user name with NUL.
            log.warning("Headers of %r cannot be read", self.path, exc_info=error)
            raise HTTPException(400, "The headers of the request cannot be read.") from error
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
