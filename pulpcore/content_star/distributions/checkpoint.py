"""Distribution app of checkpoints: publications of a repository by time."""

from datetime import UTC, datetime, timedelta
from functools import cached_property

from django.db.models import QuerySet
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pulpcore.content_star.distributions.publication import PublicationApp
from pulpcore.content_star.distributions.registry import serves
from pulpcore.content_star.distributions.use_page import how_to_use_panel
from pulpcore.content_star.listings.entries import DirectoryEntry
from pulpcore.content_star.listings.facts_query import refuse_facts
from pulpcore.content_star.listings.negotiation import VaryOnAccept, preferred_form
from pulpcore.content_star.listings.page import (
    SORTS,
    directory_page,
    page_parameters,
    select_entries,
)
from pulpcore.content_star.listings.pagination import PageQuery, page_query
from pulpcore.content_star.listings.responses import head_for, listing_for
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.content_star.resolve.paths import decoded_path
from pulpcore.content_star.resolve.redirect import permanent_redirect, redirect_with_slash
from pulpcore.content_star.upstream import CHECKPOINT_TS_FORMAT
from pulpcore.plugin.models import Distribution, Publication


@serves(Distribution, checkpoint=True)
class CheckpointApp(PublicationApp):
    """Serve `<timestamp>/<path>` from the latest checkpoint at that time.

    A timestamp between two checkpoints redirects to that of the earlier one, so that each
    checkpoint has one URL. There is no fallback to superseded publications.
    """

    cacheable = True

    publication: Publication | None = None
    """The checkpoint of the path, once it has been found."""

    def from_distribution(self) -> ASGIApp:
        """Return the list of checkpoints, or a response from the checkpoint of the path."""
        return self.from_checkpoint() if self.path else self.timestamps()

    def from_checkpoint(self) -> ASGIApp:
        """Return the response for `<path>` of the checkpoint at `<timestamp>`."""
        url = decoded_path(self.request.scope)
        base = url.removesuffix(self.path)
        timestamp, slash, self.path = self.path.partition("/")
        publication = self.publication = self.at(_parse(timestamp))
        name = _format(publication.pulp_created)
        if name != timestamp:
            return permanent_redirect(self.request, f"{base}{name}/{self.path}")
        if not slash:
            return redirect_with_slash(self.request)
        source = ContentSource(publication, publication.repository_version)
        return self.from_source(source) or self.pull_through_or_404(source)

    def timestamps(self) -> ASGIApp:
        """Return the listing of the checkpoints, oldest first, or as the query of a page says."""
        refuse_facts(self.request.scope)
        page = page_query(self.request)
        if preferred_form(self.request) == "page":
            response = self.page_of_timestamps()
        elif self.request.method == "HEAD":
            response = head_for(self.request)
        else:
            entries = self.entries_of_timestamps(page)
            response = listing_for(self.request, entries, usage=self.listing_usage())
        return VaryOnAccept(response)

    def page_of_timestamps(self) -> ASGIApp:
        """Return the page of the checkpoints for people."""
        parameters = page_parameters(self.request, SORTS)
        if self.request.method == "HEAD" and parameters.reads_from_cursor:
            return head_for(self.request)
        selected = select_entries(parameters, self.entries_of_timestamps)
        return directory_page(self.request, parameters, selected, how_to_use_panel(self))

    def entries_of_timestamps(self, page: PageQuery) -> list[DirectoryEntry]:
        """Return the checkpoints on the page, oldest first."""
        created = self.checkpoints().values_list("pulp_created", flat=True)
        # Of several checkpoints within one second the latest is listed.
        moments = {f"{_format(moment)}/": moment for moment in created.order_by("pulp_created")}
        return [DirectoryEntry(name, moments[name]) for name in page.select(moments)]

    @property
    def described_source(self) -> ContentSource:
        """Checkpoint of the path, or the latest for the root."""
        publication = self.publication or self.latest
        return ContentSource(publication, publication and publication.repository_version)

    @property
    def usage_url(self) -> str:
        """External URL of the latest checkpoint."""
        return f"{self.root_url}{_format(self.latest.pulp_created) if self.latest else 'TIME'}/"

    @cached_property
    def latest(self) -> Publication | None:
        """The latest checkpoint, or None."""
        return self.until(datetime.now(UTC))

    def nearest_directory(self) -> str | None:
        """Return the deepest directory of the checkpoint of the path, or the root."""
        timestamp, _, path = self.resolved.path.partition("/")
        try:
            publication = self.at(_parse(timestamp))
        except HTTPException:
            return ""
        source = ContentSource(publication, publication.repository_version)
        nearest = self.nearest_below(source, path)
        return "" if nearest is None else f"{_format(publication.pulp_created)}/{nearest}"

    def at(self, moment: datetime) -> Publication:
        """Return the latest checkpoint at `moment`; raises `HTTPException` 404 if there is none."""
        publication = self.until(moment + timedelta(seconds=1))
        if publication is None:
            raise HTTPException(404, "The first checkpoint is later than this time.")
        return publication

    def until(self, end: datetime) -> Publication | None:
        """Return the latest checkpoint before `end`, or None."""
        return (
            self.checkpoints()
            .filter(pulp_created__lt=end)
            .select_related("repository_version")
            .defer("repository_version__content_ids")
            .order_by("-pulp_created")
            .first()
        )

    def checkpoints(self) -> QuerySet[Publication]:
        """Return the checkpoint publications of the distribution's repository."""
        return Publication.objects.filter(
            repository_version__repository_id=self.distribution.repository_id,
            checkpoint=True,
            complete=True,
        )


def _parse(timestamp: str) -> datetime:
    try:
        moment = datetime.strptime(timestamp, CHECKPOINT_TS_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise HTTPException(404, f"'{timestamp}' is not the time of a checkpoint.") from None
    # strptime accepts fewer digits, so that a checkpoint would have several URLs.
    if _format(moment) != timestamp:
        raise HTTPException(404, f"'{timestamp}' is not the time of a checkpoint.")
    if moment > datetime.now(UTC):
        raise HTTPException(404, f"'{timestamp}' is in the future.")
    return moment


def _format(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(CHECKPOINT_TS_FORMAT)
