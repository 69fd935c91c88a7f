"""Base class of distribution apps: steps that plugins override, and responses for files."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import quote
from uuid import UUID

from django.shortcuts import get_object_or_404
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pulpcore.content_star.cache.cdn_headers import CACHE_CONTROL, surrogate_keys
from pulpcore.content_star.cache.entries import CacheEntry, Dependencies
from pulpcore.content_star.distributions.file_page import FileFacts, file_response
from pulpcore.content_star.listings.facts_query import facts_query
from pulpcore.content_star.listings.negotiation import VaryOnAccept
from pulpcore.content_star.listings.site import origin
from pulpcore.content_star.remote.on_demand import NoRemote, on_demand_request
from pulpcore.content_star.remote.response import OnDemandResponse
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import ContentSource, ResolvedFile, served_source
from pulpcore.content_star.resolve.distribution import ResolvedPath
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.responses.artifact import DEFAULT_CONTENT_TYPE
from pulpcore.content_star.responses.headers import Disposition, content_disposition
from pulpcore.content_star.storage.backends import url_cache_seconds
from pulpcore.content_star.storage.delivery import deliver
from pulpcore.content_star.upstream import mime_types, with_domain
from pulpcore.plugin.models import Artifact, ContentArtifact


class DistributionApp(ABC):
    """Create the response to one authorized request to a distribution.

    All methods block and run in one call of the database executor. The response is sent after its
    connection has been released.

    Plugins override the steps `find_content`, `json_for`, `extra_headers`, `extra_entries` and
    `usage`, which may use `self.request`. The default of a step is the hook of the distribution's
    model, if that has one.
    """

    routes: ClassVar[Sequence[BaseRoute]] = ()
    """Plugin routes below the base path: matched before files, for any method, after the guard."""

    cacheable: ClassVar[bool] = False
    """Whether responses with `dependencies` may be cached until one of those rows changes.

    Not inherited, since a subclass may depend on more: each class declares for itself that its
    responses depend only on the path, the distribution, and the source that it serves."""

    def __init_subclass__(cls) -> None:
        cls.cacheable = vars(cls).get("cacheable", False)

    def __init__(self, request: Request, resolved: ResolvedPath) -> None:
        self.request = request
        self.resolved = resolved
        self.distribution = resolved.distribution
        self.path = resolved.path
        self.known_source = resolved.source
        self.dependencies: Dependencies | None = None
        """Rows, beside `source`, whose change invalidates the response; None if not cacheable."""
        self.is_listing = False
        """Whether the response lists a directory of `source` alone, without names by a plugin."""
        self.entry: CacheEntry | None = None
        """Cache hit, to be used unless the plugin returns a response of its own."""

    @abstractmethod
    def respond(self) -> ASGIApp:
        """Return the response; raises `HTTPException` or other errors that `errors` translates."""

    def find_content(self, path: str) -> ContentArtifact | ASGIApp | None:
        """Return content or a response for `path`, before the distribution's source is looked up.

        With None the path is served from that source. Overriding it replaces the model's
        `content_handler`.
        """
        return None

    def json_for(self, path: str) -> object:
        """Return an object to send as JSON to clients that prefer it, or None for the default.

        Overriding it replaces the model's `content_handler_json`.
        """
        return None

    def extra_headers(self, path: str) -> Mapping[str, str]:
        """Return headers for the file at `path`, which may replace Content-Type, Cache-Control."""
        headers: Mapping[str, str] = self.distribution.content_headers_for(path)
        return headers

    def extra_entries(self, path: str) -> Iterable[str]:
        """Return names to add to the listing of the directory `path`.

        `path` ends in a slash, or is empty for the root; names of directories end in a slash.
        """
        names: Iterable[str] = self.distribution.content_handler_list_directory(path)
        return names

    def usage(self) -> str:
        """Return instructions for users, shown in the HTML listing of the distribution's root.

        A plain string is escaped and preformatted. Markup has to be a `SafeString`, as Django's
        `format_html` and `render_to_string` return. Scripts in it do not run.
        """
        return ""

    @property
    def root_url(self) -> str:
        """External URL of the distribution, with a trailing slash."""
        path = decoded_path(self.request.scope)
        root = path[: len(path) - len(self.resolved.path)].rstrip("/")
        return f"{origin(self.request)}{quote(root)}/"

    @cached_property
    def source(self) -> ContentSource:
        """Source that the distribution serves now; also sets the surrogate keys of the response."""
        source = self.known_source or served_source(self.distribution)
        request_info(self.request.scope).surrogate_keys = surrogate_keys(self.distribution, source)
        return source

    @property
    def described_source(self) -> ContentSource:
        """Source that `?info` and `?use` describe."""
        return self.source

    @property
    def usage_url(self) -> str:
        """External URL that clients are configured with, with a trailing slash."""
        return self.root_url

    def nearest_directory(self) -> str | None:
        """Return the deepest directory above the path, which is not found, or None.

        It is relative to the base path: empty for the root, or with a slash at the end.
        """
        return None

    @property
    def overrides_find_content(self) -> bool:
        """Whether the class overrides `find_content`."""
        return type(self).find_content is not DistributionApp.find_content

    @property
    def asks_plugin(self) -> bool:
        """Whether code of the plugin has to run for each request, even on a cache hit."""
        return False

    def cached_response(self) -> ASGIApp | None:
        """Return the response of the cache entry, if there is one."""
        if self.entry is None:
            return None
        self.entry.fill_permitted(request_info(self.request.scope))
        return self.entry.result.respond(self.request)

    def file(
        self, found: ResolvedFile, path: str, disposition: Disposition = "attachment"
    ) -> ASGIApp:
        """Return the response for the file `found`; its Content-Type is that of `path`.

        Raises `HTTPException` 404 if it is neither saved nor at a remote, and `StoreUnavailable`
        if the domain's storage cannot be accessed.
        """
        if query := facts_query(self.request.scope):
            url = f"{self.root_url}{quote(self.resolved.path)}"
            facts = FileFacts(found, self.described_source, self.path, url)
            content_type = self.headers_for(path).get("Content-Type", DEFAULT_CONTENT_TYPE)
            return VaryOnAccept(file_response(self.request, facts, query, content_type))
        artifact = found.content_artifact.artifact
        if artifact is None:
            return self.on_demand(found, path, disposition)
        filename = PurePosixPath(found.content_artifact.relative_path).name
        headers = self.headers_for(path)
        response = self.artifact(artifact, filename, found.last_modified, headers, disposition)
        self._depend_on(found.content_artifact.pk)
        return response

    def on_demand(self, found: ResolvedFile, path: str, disposition: Disposition) -> ASGIApp:
        """Return the response for a file on demand, which is downloaded from a remote.

        Raises `HTTPException` 404 if no remote has it.
        """
        domain = self.distribution.pulp_domain
        filename = PurePosixPath(found.content_artifact.relative_path).name
        try:
            fetch_request = on_demand_request(found.content_artifact, domain)
        except NoRemote:
            raise HTTPException(
                404, "The file is not saved, and no remote has it any more."
            ) from None

        request_info(self.request.scope).source = "remote"

        def respond_again() -> ASGIApp:
            current = get_object_or_404(ContentArtifact, pk=found.content_artifact.pk)
            with with_domain(domain):
                return self.file(ResolvedFile(current, found.last_modified), path, disposition)

        return OnDemandResponse(
            fetch_request,
            respond_again,
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
        """Return the response that sends `artifact` as `filename`, or redirects to it.

        Raises `StoreUnavailable` if the domain's storage cannot be accessed.
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
            # Among the headers, since these become parameters of signed URLs too.
            headers={"Content-Disposition": content_disposition(filename, disposition), **headers},
        )
        is_local = request_info(scope).source == "local"
        seconds = float("inf") if is_local else url_cache_seconds(domain)
        self.dependencies = Dependencies((artifact.pk,), seconds)
        return response

    def _depend_on(self, row: UUID) -> None:
        if known := self.dependencies:
            self.dependencies = Dependencies((*known.ids, row), known.max_age)

    def headers_for(self, path: str) -> dict[str, str]:
        """Return Content-Type and Cache-Control for `path`, updated with the plugin's headers."""
        headers = {"Cache-Control": CACHE_CONTROL}
        if content_type := mime_types.get_type(path):
            headers["Content-Type"] = content_type
        return headers | dict(self.extra_headers(path))
