"""Index of distributions: a page for people, searched and sorted, and facts for JSON. Blocks."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from django.apps import apps
from django.conf import settings
from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, Sum, When
from django.db.models.functions import Coalesce
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pulpcore.content_star.listings.base_paths import visible_distributions
from pulpcore.content_star.listings.json import DistributionFacts, rfc_3339
from pulpcore.content_star.listings.page import (
    PageParameters,
    columns,
    hidden_fields,
    href,
    next_href,
    page_parameters,
    page_response,
)
from pulpcore.content_star.listings.pagination import PARAMETER
from pulpcore.content_star.listings.responses import head_for
from pulpcore.content_star.listings.site import host_of, origin, render_page, start_path
from pulpcore.content_star.upstream import RepositoryVersionContentDetails
from pulpcore.plugin.models import Distribution, Domain, RepositoryVersion

# Distributions of a page.
PAGE_ROWS = 100

# Fields by which the page is sorted, the default first; the base path, which is unique in a domain,
# decides between equal ones.
SORTS = {"path": "base_path", "name": "name", "type": "pulp_type", "date": "pulp_last_updated"}

_COLUMNS = {
    "path": "Path",
    "name": "Name",
    "type": "Type",
    "serves": "Serves",
    "date": "Changed (UTC)",
}


def distributions_page(request: Request, domain: Domain, prefix: str) -> Response:
    """Return the page of the visible distributions whose base paths begin with `prefix`.

    Raises `HTTPException` 400 for invalid parameters, also for HEAD, which reads no rows.
    """
    page = page_parameters(request, list(SORTS))
    rows = page_rows(page, domain, prefix)
    if request.method == "HEAD":
        return head_for(request)
    found = list(rows[: PAGE_ROWS + 1])
    has_next = len(found) > PAGE_ROWS
    shown = [_row(request, domain, row) for row in found[:PAGE_ROWS]]
    context = {
        "title": f"{prefix.rstrip('/')}/" if prefix else "Content",
        "page": page,
        "columns": columns(request, page, _COLUMNS, SORTS),
        "hidden": hidden_fields(request),
        "all": href(request),
        "list": href(request, list=""),
        "distributions": shown,
        "summary": _summary(page, len(shown), has_next),
        "first": href(request, **({"q": page.q} if page.q else {})),
        "next": next_href(request, page, _cursor(page, found[PAGE_ROWS - 1])) if has_next else "",
    }
    return page_response(request, render_page(request, "distributions.html", context))


def page_rows(page: PageParameters, domain: Domain, prefix: str) -> QuerySet[Any, dict[str, Any]]:
    """Return the rows of a page from its cursor on, of which a slice is read by one query."""
    field = SORTS[page.sort]
    found = visible_distributions(domain).filter(base_path__startswith=prefix)
    if page.q:
        found = found.filter(Q(name__icontains=page.q) | Q(base_path__icontains=page.q))
    if page.after is not None:
        found = found.filter(_after(page, field))
    sign = "-" if page.is_descending else ""
    return _facts(found.order_by(*dict.fromkeys([f"{sign}{field}", f"{sign}base_path"])))


def facts_by_segment(
    domain: Domain, prefix: str, segments: Iterable[str]
) -> dict[str, DistributionFacts]:
    """Return facts about the visible distributions at `prefix` and a segment, by segment.

    Segments end in a slash; not all are of distributions, others are parts of base paths only.
    """
    base_paths = [prefix + segment.rstrip("/") for segment in segments]
    rows = _facts(visible_distributions(domain).filter(base_path__in=base_paths))
    return {
        f"{row['base_path'].removeprefix(prefix)}/": {
            "name": row["name"],
            "type": row["pulp_type"],
            "serves": _serves(row),
            "units": row["units"],
            "labels": row["pulp_labels"],
            "guarded": row["content_guard_id"] is not None,
            "changed": rfc_3339(row["pulp_last_updated"]),
        }
        for row in rows
    }


def _facts(found: QuerySet[Distribution]) -> QuerySet[Any, dict[str, Any]]:
    """Return facts about distributions, with the version served and its number of content units."""
    latest = RepositoryVersion.objects.filter(repository=OuterRef("repository_id"), complete=True)
    units = RepositoryVersionContentDetails.objects.filter(
        count_type="P", repository_version=OuterRef("version_id")
    ).values("repository_version_id")
    published = RepositoryVersion.objects.filter(
        repository=OuterRef("repository_id"), publication__complete=True
    )
    is_published = Q(pulp_type__in=_types_served_from_publications())
    served = RepositoryVersion.objects.filter(pk=OuterRef("version_id"))
    version = Coalesce(
        "publication__repository_version_id",
        "repository_version_id",
        Case(
            When(is_published, then=Subquery(published.order_by("-number").values("pk")[:1])),
            default=Subquery(latest.order_by("-number").values("pk")[:1]),
        ),
    )
    return found.annotate(version_id=version).values(
        "name",
        "base_path",
        "pulp_type",
        "pulp_labels",
        "content_guard_id",
        "pulp_last_updated",
        "remote__name",
        "repository__name",
        "publication_id",
        "repository_version_id",
        number=Subquery(served.values("number")),
        served_repository=Subquery(served.values("repository__name")),
        is_published=is_published,
        units=Subquery(units.annotate(units=Sum("count")).values("units")[:1]),
    )


@cache
def _types_served_from_publications() -> frozenset[str]:
    """Return the types of distributions that serve the latest publication of a repository."""
    return frozenset(
        model.get_pulp_type()
        for model in apps.get_models()
        if issubclass(model, Distribution) and model.SERVE_FROM_PUBLICATION
    )


def _after(page: PageParameters, field: str) -> Q:
    """Return the condition for rows after the cursor."""
    assert page.after is not None
    operator = "lt" if page.is_descending else "gt"
    try:
        text, base_path = map(_storable, json.loads(page.after))
        is_date = field == "pulp_last_updated"
        value = datetime.fromisoformat(text).astimezone(UTC) if is_date else text
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise HTTPException(
            400, f"The query parameter '{PARAMETER}' is invalid: follow the links of a page."
        ) from None
    later = Q(**{f"{field}__{operator}": value})
    later |= Q(**{field: value, f"base_path__{operator}": base_path})
    return Q(**{f"{field}__{operator}e": value}) & later  # a range of an index, as no OR is


def _storable(value: object) -> str:
    """Return a string that PostgreSQL can compare. Raises ValueError for any other value."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(value)
    value.encode()  # JSON may have halves of surrogate pairs
    return value


def _cursor(page: PageParameters, row: dict[str, Any]) -> str:
    value = row[SORTS[page.sort]]
    return json.dumps(
        [value.isoformat() if isinstance(value, datetime) else value, row["base_path"]]
    )


def _row(request: Request, domain: Domain, row: dict[str, Any]) -> dict[str, Any]:
    start = start_path(request)
    *above, leaf = row["base_path"].split("/")
    parents, path = [], start
    for segment in above:
        path += f"{segment}/"
        parents.append((segment, quote(path)))
    return {
        "parents": parents,
        "leaf": leaf,
        "url": quote(f"{start}{row['base_path']}/"),
        "image": _image(request, domain, row),
        "name": row["name"],
        "type": row["pulp_type"],
        "serves": _serves(row) + _units(row["units"]),
        "labels": [": ".join(filter(None, pair)) for pair in sorted(row["pulp_labels"].items())],
        "guard": row["content_guard_id"] is not None,
        "changed": row["pulp_last_updated"],
    }


def image_name(host: str, path: str, pulp_type: str) -> str:
    """Return the name by which clients of the registry pull from a container distribution."""
    return f"{host}/{path}" + ("/IMAGE:TAG" if pulp_type.endswith(".pull-through") else ":TAG")


def _image(request: Request, domain: Domain, row: dict[str, Any]) -> str:
    """Return the image of a container distribution, or an empty string for other types.

    The guard of these lets clients with a signed URL in, so that the page of `?use` is not seen.
    """
    if not row["pulp_type"].startswith("container."):
        return ""
    above = f"{domain.name}/" if settings.DOMAIN_ENABLED else ""
    path = quote(above + row["base_path"])
    return image_name(host_of(origin(request)), path, row["pulp_type"])


def _serves(row: dict[str, Any]) -> str:
    """Return in words which source a distribution serves."""
    if row["number"] is not None:
        is_latest = row["publication_id"] is None and row["repository_version_id"] is None
        is_published = row["is_published"] if is_latest else row["publication_id"] is not None
        served = served_version(row["number"], row["served_repository"], is_published)
        return f"{served}, the latest" if is_latest else served
    if row["repository__name"] is not None:
        return f"no publication of {row['repository__name']} yet"
    if row["remote__name"] is not None:
        return f"remote {row['remote__name']}"
    return "nothing yet"


def served_version(number: int, repository: str, is_published: bool) -> str:
    """Return in words a version that is served, or whose publication is."""
    served = f"version {number} of {repository}"
    return f"publication of {served}" if is_published else served


def _units(units: int | None) -> str:
    if not units:
        return ""
    return ", 1 content unit" if units == 1 else f", {units:,} content units"


def _summary(page: PageParameters, shown: int, has_next: bool) -> str:
    which = f"match “{page.q}”" if page.q else "here"
    if not shown:
        return f"No distributions {which}."
    if has_next or page.after is not None:
        return f"{shown:,} distributions on this page{', more on the next' if has_next else ''}."
    return "1 distribution." if shown == 1 else f"{shown:,} distributions {which}."
