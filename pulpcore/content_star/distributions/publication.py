"""Distributions of publications, repository versions and repositories: files and directories."""

from dataclasses import replace
from functools import cached_property

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.app.models import Distribution
from pulpcore.content_star.cache.entries import Dependencies
from pulpcore.content_star.distributions.plugin_hooks import HookedApp
from pulpcore.content_star.distributions.pull_through import pull_through
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings.directory import DirectoryEntry
from pulpcore.content_star.listings.negotiation import VaryOnAccept, prefers_json
from pulpcore.content_star.listings.pagination import ALL_ENTRIES, PageQuery, page_query
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.listings.stream import ListedDirectory, ListingPage
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import (
    ContentSource,
    Found,
    file_superseded,
    files,
)
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.resolve.redirect import with_slash

NOTHING_CONFIGURED = (
    "Distribution is not pointing to a publication, repository, repository version, or remote."
)
NOT_PUBLISHED = "Distribution is pointing to a repository that has no publication yet."


@serves(Distribution)
class PublicationApp(HookedApp):
    """Serves the exact file first, then the directory's `index.html`, then its listing.

    A client that prefers JSON gets what the plugin has for it before all that, and a listing where
    others get an `index.html`.
    """

    keeps_answers = True

    def respond(self) -> ASGIApp:
        if not self.path and not self.request.scope["path"].endswith("/"):
            return with_slash(self.request)
        from_plugin = self.json_from_plugin() or self.from_steps()
        response = from_plugin or self.again() or self.from_what_is_served()
        return VaryOnAccept(response) if self.json_handler else response

    @property
    def serves_publications(self) -> bool:
        """Whether files are taken from publications, or from repository versions as they are."""
        return bool(self.distribution.SERVE_FROM_PUBLICATION)

    def from_what_is_served(self) -> ASGIApp:
        """Answer with the file or directory that the distribution serves at the path, or a 404."""
        source = self.source
        return self.from_source(source) or self.from_superseded(source) or self.nothing(source)

    def from_source(self, source: ContentSource) -> ASGIApp | None:
        """Answer from what the distribution serves now."""
        if source.publication is None and self.serves_publications:
            return None
        if source.version is None:
            return None
        return self.exact_file(source) or self.directory(source)

    def exact_file(self, source: ContentSource) -> ASGIApp | None:
        """Answer with the file at the path. Directories are not looked for yet."""
        if not self.path or self.path.endswith("/"):
            return None
        found = self.resolved.file or files(source, [self.path]).get(self.path)
        return self.file(found, self.path) if found else None

    def directory(self, source: ContentSource) -> ASGIApp | None:
        """Answer with the directory at the path, or send a client that forgot the slash there."""
        if self.path and not self.path.endswith("/"):
            below = f"{self.path}/"
            if not self.is_directory(source, below):
                return None
            self.made_from = None if self.lists_more else Dependencies()
            return with_slash(self.request)
        if prefers_json(self.request):
            response = self.listing(source)
        else:
            response = self.index(source) or self.listing(source)
        return VaryOnAccept(response) if response else None

    def index(self, source: ContentSource) -> ASGIApp | None:
        """Answer with the directory's `index.html`, as a page and not as a download."""
        path = f"{self.path}index.html"
        found = _index(source, path)
        return self.file(found, path, disposition="inline") if found else None

    def listing(self, source: ContentSource) -> ASGIApp | None:
        """Answer with the entries of the directory and those that the plugin adds."""
        page = page_query(self.request)
        if self.request.method == "HEAD":
            return head_for(self.request) if self.is_directory(source, self.path) else None
        if not prefers_json(self.request):
            return self.page(source)
        entries = self.entries(source, page)
        if not entries and (page.after is None or not self.is_directory(source, self.path)):
            return None
        return listing_for(self.request, entries)

    def usage_here(self) -> str:
        """Return what the page of the directory says about the use of the repository."""
        is_page = not self.resolved.path and not prefers_json(self.request)
        return self.usage() if is_page else ""

    def page(self, source: ContentSource) -> ASGIApp | None:
        """Answer with all entries as HTML, of which the first are kept or read now."""
        added = set(self.extra_entries(self.path))
        level = ListedDirectory(source, self.path, tuple(ALL_ENTRIES.select(added)))
        # A hit looks nothing up.
        is_hit = level.cached_rows() is not None and self.known_source is not None
        request_info(self.request.scope).cache = "HIT" if is_hit else "MISS"
        rows = level.read()
        if rows is None:
            return None
        return ListingPage(decoded_path(self.request.scope), level, rows, self.usage_here())

    def entries(self, source: ContentSource, page: PageQuery) -> list[DirectoryEntry]:
        """Read what of the directory, and of what the plugin adds to it, is in the window."""
        added = set(self.extra_entries(self.path))
        entries = {name: DirectoryEntry(name) for name in page.select(added)}
        entries |= {entry.name: entry for entry in directory.entries(source, self.path, page)}
        return [entries[name] for name in page.select(entries)]

    def is_directory(self, source: ContentSource, path: str) -> bool:
        """Tell whether `path`, which ends in a slash, can be listed."""
        return directory.exists(source, path) or any(True for _ in self.extra_entries(path))

    def from_superseded(self, source: ContentSource) -> ASGIApp | None:
        """Answer from publications that were replaced within the grace period."""
        if not self.path or not self.serves_publications:
            return None
        found = file_superseded(self.distribution, self.path, source.publication)
        response = self.file(found, self.path) if found else None
        self.made_from = None  # the grace period ends by itself
        return response

    @property
    def lists_more(self) -> bool:
        """Whether the plugin adds to directories, which may depend on anything."""
        hook = type(self.distribution).content_handler_list_directory
        return hook is not Distribution.content_handler_list_directory

    def nothing(self, source: ContentSource) -> ASGIApp:
        """Answer with what the distribution's remote has, or say why there is nothing."""
        distribution = self.distribution
        if distribution.remote_id is not None:
            return pull_through(self)
        if source.publication is None and source.version is None:
            raise HTTPException(404, NOTHING_CONFIGURED)
        fallback = type(distribution).get_fallback_ca is not Distribution.get_fallback_ca
        if not (fallback or self.lists_more):
            self.made_from = Dependencies()
        if source.publication is None and self.serves_publications:
            raise HTTPException(404, NOT_PUBLISHED)
        raise HTTPException(404, f"Distribution '{distribution.name}' has no '{self.path}'.")


class RepositoryVersionApp(PublicationApp):
    """Serves what is in a repository version, at the paths its content has, published or not.

    The version is the one that the distribution names, the latest of its repository, or the one
    that its publication was made of.
    """

    @cached_property
    def source(self) -> ContentSource:
        """What the distribution serves now, without publications."""
        return replace(super().source, publication=None)

    @property
    def serves_publications(self) -> bool:
        return False


class PullThroughApp(PublicationApp):
    """Serves what the distribution's remote has: a cache, and nothing more.

    What is content to the remote's plugin is saved. What is published or in the repository is not
    looked for, so that it hides nothing of the remote's, and no directories are listed.
    """

    def from_what_is_served(self) -> ASGIApp:
        """Answer with what the remote has at the path, from Pulp if that has saved it."""
        if self.distribution.remote_id is None:
            raise HTTPException(404, f"Distribution '{self.distribution.name}' has no remote.")
        return pull_through(self)


def _index(source: ContentSource, path: str) -> Found | None:
    found = files(source, [path]).get(path)
    if found and found.is_published and source.publication:
        # A page made by publishing changes with each publication, whatever its content is named by.
        return replace(found, last_modified=source.publication.pulp_created)
    return found
