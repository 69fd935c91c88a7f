"""Distributions of publications, repository versions and repositories: files and directories."""

from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.content_star import directory
from pulpcore.content_star.directory import Entry
from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.listing import head_of_listing, listing
from pulpcore.content_star.locate import decoded_path
from pulpcore.content_star.lookup import (
    Found,
    Source,
    file_in_publication,
    file_in_version,
    file_published,
    file_superseded,
    source_of,
)
from pulpcore.content_star.redirect import with_slash

NOTHING_CONFIGURED = (
    "Distribution is not pointing to a publication, repository, repository version, or remote."
)
NOT_PUBLISHED = "Distribution is pointing to a repository that has no publication yet."
PULL_THROUGH = "Distribution would ask its remote for this file, which is not served here."


class PublishedApp(DistributionApp):
    """Serves the exact file first, then the directory's `index.html`, then its listing."""

    def respond(self) -> ASGIApp:
        if not self.path and not self.request.scope["path"].endswith("/"):
            return with_slash(self.request)
        if answer := self.from_plugin():
            return answer
        source = source_of(self.distribution)
        return self.from_source(source) or self.from_superseded(source) or self.nothing(source)

    def from_source(self, source: Source) -> ASGIApp | None:
        """Answer from what the distribution serves now."""
        if source.publication is None and self.distribution.SERVE_FROM_PUBLICATION:
            return None
        if source.version is None:
            return None
        return self.exact_file(source) or self.directory(source)

    def exact_file(self, source: Source) -> ASGIApp | None:
        """Answer with the file at the path. Directories are not looked for yet."""
        if not self.path or self.path.endswith("/"):
            return None
        found = (
            file_in_publication(source.publication, self.path)
            if source.publication
            else file_in_version(source.version, self.path)
        )
        return self.file(found, self.path) if found else None

    def directory(self, source: Source) -> ASGIApp | None:
        """Answer with the directory at the path, or send a client that forgot the slash there."""
        if self.path and not self.path.endswith("/"):
            below = f"{self.path}/"
            return with_slash(self.request) if self.is_directory(source, below) else None
        return self.index(source) or self.listing(source)

    def index(self, source: Source) -> ASGIApp | None:
        """Answer with the directory's `index.html`, as a page and not as a download."""
        path = f"{self.path}index.html"
        found = _index(source, path)
        return self.file(found, path, disposition="inline") if found else None

    def listing(self, source: Source) -> ASGIApp | None:
        """Answer with the entries of the directory and those that the plugin adds."""
        if self.request.method == "HEAD":
            return head_of_listing() if self.is_directory(source, self.path) else None
        entries = {entry.name: entry for entry in directory.entries(source, self.path)}
        for name in self.distribution.content_handler_list_directory(self.path):
            entries.setdefault(name, Entry(name))
        if not entries:
            return None
        return listing(decoded_path(self.request.scope), entries.values())

    def is_directory(self, source: Source, path: str) -> bool:
        """Tell whether `path`, which ends in a slash, can be listed."""
        return directory.exists(source, path) or bool(
            self.distribution.content_handler_list_directory(path)
        )

    def from_superseded(self, source: Source) -> ASGIApp | None:
        """Answer from publications that were replaced within the grace period."""
        if not self.path or not self.distribution.SERVE_FROM_PUBLICATION:
            return None
        found = file_superseded(self.distribution, self.path, source.publication)
        return self.file(found, self.path) if found else None

    def nothing(self, source: Source) -> ASGIApp:
        """Say why there is nothing at the path."""
        distribution = self.distribution
        if distribution.remote_id is not None:
            raise HTTPException(501, PULL_THROUGH)
        if source.publication is None and source.version is None:
            raise HTTPException(404, NOTHING_CONFIGURED)
        if source.publication is None and distribution.SERVE_FROM_PUBLICATION:
            raise HTTPException(404, NOT_PUBLISHED)
        raise HTTPException(404, f"Distribution '{distribution.name}' has no '{self.path}'.")


def _index(source: Source, path: str) -> Found | None:
    if source.publication is None:
        return file_in_version(source.version, path)
    # A page made by publishing changes with each publication, whatever its content is named by.
    found = file_published(source.publication, path)
    return found and replace(found, last_modified=source.publication.pulp_created)
