"""What all distribution apps share: the request, a plugin's steps, and how a file is answered."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import quote
from uuid import UUID

from django.conf import settings
from django.shortcuts import get_object_or_404
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pulpcore.app import mime_types
from pulpcore.app.contexts import with_domain
from pulpcore.app.models import Artifact, ContentArtifact
from pulpcore.content_star.cache.cdn_headers import CACHE_CONTROL, surrogate_keys
from pulpcore.content_star.cache.entries import CacheEntry, Dependencies
from pulpcore.content_star.remote.on_demand import NoRemote, on_demand_request
from pulpcore.content_star.remote.response import OnDemandResponse
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import ContentSource, Found, source_of
from pulpcore.content_star.resolve.distribution import ResolvedPath
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.headers import Disposition, content_disposition
from pulpcore.content_star.storage.backends import url_cache_seconds
from pulpcore.content_star.storage.delivery import deliver


class DistributionApp(ABC):
    """Answers one authorized request to one distribution.

    Everything here blocks and runs behind the database door, in one trip. What `respond` returns is
    sent afterwards, when the connection has been given back.

    Classes of plugins override the steps `find_content`, `json_for`, `extra_headers`,
    `extra_entries` and `usage`, which may look at `self.request`. A step that is not overridden
    asks the hook of the distribution's model, if it has one.
    """

    routes: ClassVar[Sequence[BaseRoute]] = ()
    """A live API below the base path: matched before files, for any method, after the guard."""

    keeps_answers: ClassVar[bool] = False
    """Whether an answer that `made_from` is set for may be given again until one of its rows
    changes. It is not inherited: what a class adds may depend on anything, so each class says for
    itself that its answers depend on the path, the distribution, and what that serves alone."""

    def __init_subclass__(cls) -> None:
        cls.keeps_answers = vars(cls).get("keeps_answers", False)

    def __init__(self, request: Request, resolved: ResolvedPath) -> None:
        self.request = request
        self.resolved = resolved
        self.distribution = resolved.distribution
        self.path = resolved.path
        self.known_source = resolved.source
        self.made_from: Dependencies | None = None
        """By which rows the answer may change, beside those of `source`; None if nobody knows."""
        self.entry: CacheEntry | None = None
        """The answer to give unless the plugin has another one."""

    @abstractmethod
    def respond(self) -> ASGIApp:
        """Return the response; raises `HTTPException`, or what else `errors` translates."""

    def find_content(self, path: str) -> ContentArtifact | ASGIApp | None:
        """Find what is at `path` before anything is looked up: content, or a response.

        None leaves the path to what the distribution serves. Overridden, it is asked in place of
        the model's `content_handler`.
        """
        return None

    def json_for(self, path: str) -> object:
        """Return what `path` is in JSON, for clients that prefer it; None if it is nothing special.

        Overridden, it is asked in place of the model's `content_handler_json`.
        """
        return None

    def extra_headers(self, path: str) -> Mapping[str, str]:
        """Return headers of the file at `path`: they add to ours, or replace type and caching."""
        headers: Mapping[str, str] = self.distribution.content_headers_for(path)
        return headers

    def extra_entries(self, path: str) -> Iterable[str]:
        """Return names to list in the directory `path`, beside what is served there.

        `path` ends in a slash or is empty for the root, names of directories end in a slash.
        """
        names: Iterable[str] = self.distribution.content_handler_list_directory(path)
        return names

    def usage(self) -> str:
        """Tell people how to use the repository; shown where the distribution's root is listed.

        A plain string is shown as it is, preformatted. Markup has to say that it is some: a
        `SafeString`, from Django's `format_html` or `render_to_string`. Scripts do not run in it.
        """
        return ""

    @property
    def root_url(self) -> str:
        """The distribution's URL as clients know it, with a slash at the end."""
        path = decoded_path(self.request.scope)
        root = path[: len(path) - len(self.resolved.path)].rstrip("/")
        url = self.request.url
        origin = settings.CONTENT_ORIGIN or f"{url.scheme}://{url.netloc}"
        return f"{origin.rstrip('/')}{quote(root)}/"

    @cached_property
    def source(self) -> ContentSource:
        """What the distribution serves now; caches are told, since the answer depends on it."""
        source = self.known_source or source_of(self.distribution)
        request_info(self.request.scope).tags = surrogate_keys(self.distribution, source)
        return source

    @property
    def finds_content(self) -> bool:
        """Whether the class has a step of its own before anything is looked up."""
        return type(self).find_content is not DistributionApp.find_content

    @property
    def asks_plugin(self) -> bool:
        """Whether the plugin's own code decides about the request before all else, each time."""
        return False

    def again(self) -> ASGIApp | None:
        """Answer as before, where that has been kept."""
        if self.entry is None:
            return None
        self.entry.fill_permitted(request_info(self.request.scope))
        return self.entry.answer.again(self.request)

    def file(self, found: Found, path: str, disposition: Disposition = "attachment") -> ASGIApp:
        """Answer with the file `found` at `path`, which decides its type.

        Raises `HTTPException` 404 if its bytes are neither in Pulp nor at a remote,
        `StoreUnavailable` if its domain's storage cannot be had.
        """
        artifact = found.content_artifact.artifact
        if artifact is None:
            return self.on_demand(found, path, disposition)
        filename = PurePosixPath(found.content_artifact.relative_path).name
        headers = self.headers_for(path)
        response = self.artifact(artifact, filename, found.last_modified, headers, disposition)
        self._depend_on(found.content_artifact.pk)
        return response

    def on_demand(self, found: Found, path: str, disposition: Disposition) -> ASGIApp:
        """Answer with a file that a remote has and Pulp has not saved."""
        domain = self.distribution.pulp_domain
        filename = PurePosixPath(found.content_artifact.relative_path).name
        try:
            fetch_request = on_demand_request(found.content_artifact, domain)
        except NoRemote:
            raise HTTPException(404, "No remote has this file any more.") from None

        request_info(self.request.scope).source = "remote"

        def again() -> ASGIApp:
            current = get_object_or_404(ContentArtifact, pk=found.content_artifact.pk)
            with with_domain(domain):
                return self.file(Found(current, found.last_modified), path, disposition)

        return OnDemandResponse(
            fetch_request,
            again,
            filename=filename,
            last_modified=found.last_modified,
            headers=self.headers_for(path),
            disposition=disposition,
        )

    def artifact(
        self,
        artifact: Artifact,
        filename: str,
        last_modified: datetime | None,
        headers: Mapping[str, str] = MappingProxyType({}),
        disposition: Disposition = "attachment",
    ) -> ASGIApp:
        """Answer with the bytes of `artifact`, to be saved as `filename`, or say where they are.

        Raises `StoreUnavailable` if its domain's storage cannot be had.
        """
        domain, scope = self.distribution.pulp_domain, self.request.scope
        response = deliver(
            domain,
            artifact,
            scope,
            size=artifact.size,
            sha256=artifact.sha256,
            last_modified=last_modified,
            filename=filename,
            # Among the headers, since an object storage is told them too.
            headers={"Content-Disposition": content_disposition(filename, disposition), **headers},
        )
        is_local = request_info(scope).source == "local"
        seconds = float("inf") if is_local else url_cache_seconds(domain)
        self.made_from = Dependencies((artifact.pk,), seconds)
        return response

    def _depend_on(self, row: UUID) -> None:
        if self.made_from:
            self.made_from = replace(self.made_from, ids=(*self.made_from.ids, row))

    def headers_for(self, path: str) -> dict[str, str]:
        """Return type and caching of the file at `path`, and what the plugin adds or replaces."""
        headers = {"Cache-Control": CACHE_CONTROL}
        if content_type := mime_types.get_type(path):
            headers["Content-Type"] = content_type
        return headers | dict(self.extra_headers(path))
