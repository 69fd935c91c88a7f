"""Index of base paths: list the distributions of a domain by path segment. Blocks."""

from django.conf import settings
from django.db.models import Func, Q, QuerySet, TextField, Value
from django.db.models.functions import Collate, Concat, Substr

from pulpcore.content_star.listings.pagination import ALL_ENTRIES, PageQuery
from pulpcore.content_star.upstream import ArtifactDistribution
from pulpcore.plugin.models import Distribution, Domain


def has_base_paths(domain: Domain, prefix: str) -> bool:
    """Return whether a visible base path begins with `prefix`: the query ends at the first."""
    return visible_distributions(domain).filter(base_path__startswith=prefix).exists()


def next_segments(domain: Domain, prefix: str, page: PageQuery = ALL_ENTRIES) -> list[str]:
    """List the path segments that follow `prefix` in the base paths of a domain.

    They end in a slash and are sorted; `prefix` is empty or ends in a slash too. Not listed are
    hidden distributions, the one of artifacts by id, and guarded ones if the domain or
    `HIDE_GUARDED_DISTRIBUTIONS` says so.
    """
    below, slash = Substr("base_path", len(prefix) + 1), Value("/", TextField())
    segment = Func(below, slash, Value(1), function="split_part", output_field=TextField())
    segments = (
        visible_distributions(domain)
        .filter(base_path__startswith=prefix)
        .annotate(segment=Collate(Concat(segment, slash), "C"))  # code points, as Python
        .order_by("segment")
        .values_list("segment", flat=True)
        .distinct()
    )
    if page.after is not None:
        segments = segments.filter(segment__gt=page.after)
    return list(segments[: page.limit])


def visible_distributions(domain: Domain) -> QuerySet[Distribution]:
    """Return the distributions that the index of a domain shows, as `next_segments` says."""
    concealed = Q(hidden=True) | Q(pulp_type=ArtifactDistribution.get_pulp_type())
    distributions = Distribution.objects.filter(pulp_domain=domain).exclude(concealed)
    if settings.HIDE_GUARDED_DISTRIBUTIONS or domain.hide_guarded_distributions:
        distributions = distributions.filter(content_guard=None)
    return distributions
