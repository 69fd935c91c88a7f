"""Distribution apps of publications, repository versions and pull-through caches."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.content_star.cache.entries import Dependencies
from pulpcore.content_star.distributions.plugin_hooks import HookedApp
from pulpcore.content_star.distributions.pull_through import pull_through
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.distributions.use_page import how_to_use_panel
from pulpcore.content_star.listings import directory
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.facts_query import facts_query, refuse_facts
from pulpcore.content_star.listings.negotiation import (
    VaryOnAccept,
    preferred_form,
    prefers_json,
)
from pulpcore.content_star.listings.page import (
    SORTS,
    directory_page,
    page_cache,
    page_parameters,
    select_entries,
)
from pulpcore.content_star.listings.pagination import ALL_ENTRIES, PageQuery, page_query
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.listings.stream import ListedDirectory, ListingPage, NamesPage
from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.content import (
    ContentSource,
    ResolvedFile,
    files,
    superseded_file,
)
from pulpcore.content_star.resolve.paths import decoded_path, prefixes
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.plugin.models import Distribution

NOTHING_CONFIGURED = (
    "Distribution is not pointing to a publication, repository, repository version, or remote."
)
# Names of the file that is shown below its directory, and the bytes of the longest.
READMES = ("README.md", "README.txt", "README", "README.rst", "readme.md", "readme.txt")
MAX_README = 32 * 1024

NOT_PUBLISHED = "Distribution is pointing to a repository that has no publication yet."


@serves(Distribution)
class PublicationApp(HookedApp):
    """Serve the exact file, else the directory's `index.html`, else its listing.

    For clients that prefer JSON the plugin's JSON hook comes first, and a directory's listing
    instead of its `index.html`.
    """

    cacheable = True

    def respond(self) -> ASGIApp:
        if not self.path and not self.request.scope["path"].endswith("/"):
            return redirect_with_slash(self.request)
        from_plugin = self.json_from_plugin() or self.from_find_content()
        response = from_plugin or self.cached_response() or self.from_distribution()
        return VaryOnAccept(response) if self.json_hook else response

    @property
    def serves_publications(self) -> bool:
        """Whether files are served from publications, not directly from repository versions."""
        return bool(self.distribution.SERVE_FROM_PUBLICATION)

    def from_distribution(self) -> ASGIApp:
        """Return the response for the path from the source, or raise `HTTPException` 404."""
        source = self.source
        return (
            self.from_source(source)
            or self.from_superseded(source)
            or self.pull_through_or_404(source)
        )

    def from_source(self, source: ContentSource) -> ASGIApp | None:
        """Return the response for the file or directory at the path in `source`, or None."""
        if source.publication is None and self.serves_publications:
            return None
        if source.version is None:
            return None
        return self.exact_file(source) or self.directory(source)

    def exact_file(self, source: ContentSource) -> ASGIApp | None:
        """Return the response for the file at the path, or None."""
        if not self.path or self.path.endswith("/"):
            return None
        found = self.resolved.file or files(source, [self.path]).get(self.path)
        return self.file(found, self.path) if found else None

    def directory(self, source: ContentSource) -> ASGIApp | None:
        """Return the response for the directory at the path, a redirect if the slash is missing."""
        if self.path and not self.path.endswith("/"):
            below = f"{self.path}/"
            if not self.is_directory(source, below):
                return None
            self.dependencies = None if self.plugin_adds_entries else Dependencies()
            return redirect_with_slash(self.request)
        if facts_query(self.request.scope) and self.is_directory(source, self.path):
            refuse_facts(self.request.scope)
        if prefers_json(self.request):
            response = self.listing(source)
        else:
            response = self.index(source) or self.listing(source)
        return VaryOnAccept(response) if response else None

    def index(self, source: ContentSource) -> ASGIApp | None:
        """Return the response for the directory's `index.html`, with disposition `inline`."""
        path = f"{self.path}index.html"
        found = _index(source, path)
        return self.file(found, path, disposition="inline") if found else None

    def listing(self, source: ContentSource) -> ASGIApp | None:
        """Return the listing of the directory, with the names that the plugin adds, or None."""
        page = page_query(self.request)
        form = preferred_form(self.request)
        self.is_listing = not self.plugin_adds_entries
        if form == "page":
            return self.page_for_people(source)
        if self.request.method == "HEAD":
            return head_for(self.request) if self.is_directory(source, self.path) else None
        match form:
            case "list":
                return self.page(source)
            case "text":
                return self.names(source)
        entries = self.entries(source, page)
        if not entries and (page.after is None or not self.is_directory(source, self.path)):
            return None
        return listing_for(self.request, entries)

    def listing_usage(self) -> str:
        """Return `usage` for the HTML listing of the root, else an empty string."""
        is_page = not self.resolved.path and not prefers_json(self.request)
        return self.usage() if is_page else ""

    def page_for_people(self, source: ContentSource) -> ASGIApp | None:
        """Return the page of the directory, sorted and filtered as the query says, or None."""
        try:
            parameters = page_parameters(self.request, SORTS)
        except HTTPException:
            if not self.is_directory(source, self.path):
                return None
            raise
        if self.request.method == "HEAD" and parameters.reads_from_cursor:
            return head_for(self.request) if self.is_directory(source, self.path) else None
        is_immutable = directory.is_immutable(source)
        is_hit = is_immutable

        def read(page: PageQuery) -> list[DirectoryEntry]:
            nonlocal is_hit
            key = (*directory.key_of(source, self.path), page)
            entries = page_cache.get(key) if is_immutable else None
            if entries is None:
                is_hit = False
                entries = directory.entries(source, self.path, page)
                if is_immutable and entries:
                    page_cache.add(key, entries)
            return self.with_added(entries, page)

        selected = select_entries(parameters, read)
        if not selected[0] and not self.is_directory(source, self.path):
            return None
        request_info(self.request.scope).cache = "HIT" if is_hit and self.known_source else "MISS"
        context = {} if self.resolved.path else how_to_use_panel(self)
        if parameters.after is None:
            context |= self.readme(source, selected[0])
        return directory_page(self.request, parameters, selected, context)

    def readme(self, source: ContentSource, entries: Sequence[DirectoryEntry]) -> dict[str, str]:
        """Return name and text of the directory's README, if it has a small one that is saved."""
        sizes = {entry.name: entry.size for entry in entries}
        name = next((name for name in READMES if 0 < (sizes.get(name) or 0) <= MAX_README), None)
        found = name and files(source, [self.path + name]).get(self.path + name)
        if not found or found.content_artifact.artifact is None:
            return {}
        try:
            with found.content_artifact.artifact.file.open("rb") as file:
                text = file.read(MAX_README).decode(errors="replace")
        except OSError:
            return {}
        return {"readme": text.replace("\0", "\N{REPLACEMENT CHARACTER}"), "readme_name": name}

    def names(self, source: ContentSource) -> ASGIApp | None:
        """Return the names of the directory as plain text, one a line, or None."""
        added = tuple(ALL_ENTRIES.select(set(self.extra_entries(self.path))))
        level = ListedDirectory(source, self.path, added)
        first = level.entries(None)
        return NamesPage(level, first) if first[0] else None

    def page(self, source: ContentSource) -> ASGIApp | None:
        """Return the streamed HTML listing, whose first rows are cached or read now, or None."""
        added = set(self.extra_entries(self.path))
        level = ListedDirectory(source, self.path, tuple(ALL_ENTRIES.select(added)))
        # On a hit nothing is looked up in the database.
        is_hit = level.cached_rows() is not None and self.known_source is not None
        request_info(self.request.scope).cache = "HIT" if is_hit else "MISS"
        rows = level.read()
        if rows is None:
            return None
        return ListingPage(decoded_path(self.request.scope), level, rows, self.listing_usage())

    def entries(self, source: ContentSource, page: PageQuery) -> list[DirectoryEntry]:
        """Return the entries of the directory, and those that the plugin adds, on the page."""
        return self.with_added(directory.entries(source, self.path, page), page)

    def with_added(
        self, entries: Sequence[DirectoryEntry], page: PageQuery
    ) -> list[DirectoryEntry]:
        """Return `entries` and those that the plugin adds to the directory, on the page."""
        added = set(self.extra_entries(self.path))
        merged = {name: DirectoryEntry(name) for name in page.select(added)}
        merged |= {entry.name: entry for entry in entries}
        return [merged[name] for name in page.select(merged)]

    def nearest_directory(self) -> str | None:
        return self.nearest_below(self.source, self.path)

    def nearest_below(self, source: ContentSource, path: str) -> str | None:
        """Return the deepest directory of `source` above `path`, or None if that has no content."""
        if source.version is None or (source.publication is None and self.serves_publications):
            return None
        nearest = None
        for directory_path in ("", *(f"{prefix}/" for prefix in prefixes(path))):
            if directory_path == path or not self.is_directory(source, directory_path):
                break
            nearest = directory_path
        return nearest

    def is_directory(self, source: ContentSource, path: str) -> bool:
        """Return whether `path`, which ends in a slash, is a directory with entries."""
        return directory.exists(source, path) or any(True for _ in self.extra_entries(path))

    def from_superseded(self, source: ContentSource) -> ASGIApp | None:
        """Return the response for the file of a superseded publication in its grace period."""
        if not self.path or not self.serves_publications:
            return None
        found = superseded_file(self.distribution, self.path, source.publication)
        response = self.file(found, self.path) if found else None
        self.dependencies = None  # the end of the grace period changes no row
        return response

    @property
    def plugin_adds_entries(self) -> bool:
        """Whether the model has a hook that adds entries, which may depend on anything."""
        hook = type(self.distribution).content_handler_list_directory
        return hook is not Distribution.content_handler_list_directory

    def pull_through_or_404(self, source: ContentSource) -> ASGIApp:
        """Return the pull-through response, or raise `HTTPException` 404 if there is no remote."""
        distribution = self.distribution
        if distribution.remote_id is not None:
            return pull_through(self)
        if source.publication is None and source.version is None:
            raise HTTPException(404, NOTHING_CONFIGURED)
        fallback = type(distribution).get_fallback_ca is not Distribution.get_fallback_ca
        if not (fallback or self.plugin_adds_entries):
            self.dependencies = Dependencies()
        if source.publication is None and self.serves_publications:
            raise HTTPException(404, NOT_PUBLISHED)
        raise HTTPException(404, f"Distribution '{distribution.name}' has no '{self.path}'.")


class RepositoryVersionApp(PublicationApp):
    """Serve the content of a repository version at its own paths, whether published or not.

    The version is that of the distribution, the latest of its repository, or that of its
    publication.
    """

    @cached_property
    def source(self) -> ContentSource:
        """Source that the distribution serves now, without the publication."""
        return replace(super().source, publication=None)

    @property
    def serves_publications(self) -> bool:
        return False


class PullThroughApp(PublicationApp):
    """Serve files of the distribution's remote only: a pull-through cache.

    Files that are content to the remote's plugin are saved. Publications and the repository are not
    looked up, so that they do not shadow files of the remote, and directories are not listed.
    """

    def from_distribution(self) -> ASGIApp:
        """Return the pull-through response; raises `HTTPException` 404 if there is no remote."""
        if self.distribution.remote_id is None:
            raise HTTPException(404, f"Distribution '{self.distribution.name}' has no remote.")
        return pull_through(self)


def _index(source: ContentSource, path: str) -> ResolvedFile | None:
    found = files(source, [path]).get(path)
    if found and found.is_published and source.publication:
        # Each publication generates its pages, so its date is that of publishing.
        return replace(found, last_modified=source.publication.pulp_created)
    return found
