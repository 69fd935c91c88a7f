"""How to use a distribution: the page of `?use`, and the panel on the page of its root.

The page has an address of its own, since a plugin may answer the root by itself, and a publication
may have an `index.html` there.
"""

import json
from threading import Lock
from typing import TypedDict
from uuid import UUID

from cachetools import LRUCache
from django.db.models import Count, Sum
from django.utils.html import format_html, strip_tags
from django.utils.safestring import SafeString
from starlette.types import ASGIApp

from pulpcore.content_star.distributions.base import DistributionApp
from pulpcore.content_star.distributions.usage import how_to_use
from pulpcore.content_star.listings.distributions import served_version
from pulpcore.content_star.listings.facts_query import query_without_facts
from pulpcore.content_star.listings.html import size_text
from pulpcore.content_star.listings.negotiation import JSON_TYPE, VaryOnAccept, preferred_form
from pulpcore.content_star.listings.page import page_response
from pulpcore.content_star.listings.site import render_page
from pulpcore.content_star.responses.text import text_response
from pulpcore.content_star.upstream import RepositoryVersionContentDetails
from pulpcore.plugin.models import ContentArtifact, RepositoryVersion

# Content units of the largest version whose size is shown: the files of all are read for it.
MAX_SIZED = 1000

# Versions whose amount of content a process caches.
CACHED_VERSIONS = 1000


class RecipeBody(TypedDict):
    """Configuration of a client, or commands, to copy."""

    title: str
    text: str


class HowToUse(TypedDict):
    """How to use a distribution."""

    name: str
    type: str
    url: str
    serves: str
    content: dict[str, int]
    size: int | None
    usage: str
    recipes: list[RecipeBody]
    notes: list[str]


class Amount(TypedDict):
    """Number of content units of a version by type, and the size of all files if it is known."""

    content: dict[str, int]
    size: int | None


def how_to_use_panel(app: DistributionApp) -> dict[str, object]:
    """Return the context of the panel: the source, the plugin's `usage`, then recipes. Blocks."""
    usage, source = app.usage(), app.described_source
    if usage and not isinstance(usage, SafeString):
        usage = format_html('<pre tabindex="0" aria-label="Usage">{}</pre>', usage)
    recipes, notes = how_to_use(app.distribution, app.usage_url, source.publication)
    amount = _amount(source.version)
    return {
        "serves": _serves(app),
        "content": ", ".join(f"{count:,} {kind}" for kind, count in amount["content"].items()),
        "size": None if amount["size"] is None else size_text(amount["size"]),
        "exact_size": amount["size"],
        "usage": usage,
        "recipes": recipes,
        "notes": notes,
    }


def how_to_use_response(app: DistributionApp) -> ASGIApp:
    """Return the page of `?use`, in the form that the request prefers. Blocks.

    Programs that accept anything get text, as those that prefer it.
    """
    request, name = app.request, app.distribution.name
    match preferred_form(request):
        case "json":
            body = json.dumps(_facts(app), ensure_ascii=False).encode()
            response = text_response(request, body, JSON_TYPE, may_compress=False)
        case "page":
            context = how_to_use_panel(app) | {"title": f"How to use {name}"}
            context["browse"] = f"./{query_without_facts(request.scope)}"
            response = page_response(request, render_page(request, "use.html", context))
        case _:
            body = _text(_facts(app)).encode()
            response = text_response(request, body, "text/plain", may_compress=False)
    return VaryOnAccept(response)


def _facts(app: DistributionApp) -> HowToUse:
    distribution, usage, source = app.distribution, app.usage(), app.described_source
    recipes, notes = how_to_use(distribution, app.usage_url, source.publication)
    return {
        "name": distribution.name,
        "type": distribution.pulp_type,
        "url": app.usage_url,
        "serves": _serves(app),
        **_amount(source.version),
        "usage": strip_tags(usage) if isinstance(usage, SafeString) else usage,
        "recipes": [{"title": title, "text": text} for title, text in recipes],
        "notes": notes,
    }


def _text(facts: HowToUse) -> str:
    """Return notes as comments, and recipes below their titles."""
    comments = "".join(f"# {note}\n" for note in facts["notes"])
    recipes = [f"# {each['title']}\n{each['text']}" for each in facts["recipes"]]
    usage = facts["usage"].strip()
    return "\n".join(filter(None, [comments, usage and f"{usage}\n", *recipes]))


def _serves(app: DistributionApp) -> str:
    """Return in words which source the distribution serves."""
    distribution, source = app.distribution, app.described_source
    if source.version is not None:
        known = distribution.repository  # loaded with the distribution
        is_known = known is not None and known.pk == source.version.repository_id
        repository = known if is_known else source.version.repository
        is_published = source.publication is not None
        return served_version(source.version.number, repository.name, is_published)
    return "nothing yet" if distribution.remote is None else f"remote {distribution.remote.name}"


_amounts: LRUCache[UUID, Amount] = LRUCache(CACHED_VERSIONS)
_lock = Lock()


def _amount(version: RepositoryVersion | None) -> Amount:
    """Return the amount of content of a version, which is cached once it cannot change."""
    if version is None:
        return {"content": {}, "size": None}
    with _lock:
        known = _amounts.get(version.pk)
    if known is not None:
        return known
    counts = RepositoryVersionContentDetails.objects.filter(
        repository_version=version, count_type="P"
    )
    content = dict(counts.order_by("content_type").values_list("content_type", "count"))
    size, is_complete = None, True
    if sum(content.values()) <= MAX_SIZED:
        size, is_complete = _size(version)
    amount: Amount = {"content": content, "size": size}
    if version.complete and is_complete:
        with _lock:
            _amounts[version.pk] = amount
    return amount


def _size(version: RepositoryVersion) -> tuple[int | None, bool]:
    """Return the bytes of the files of a version, and whether all files are saved.

    None for the bytes if they are not. Files are found by the ids of the version's content: their
    memberships in the repository are as many as its history.
    """
    (ids,) = RepositoryVersion.objects.filter(pk=version.pk).values_list("content_ids", flat=True)
    files = ContentArtifact.objects.filter(content_id__in=ids)
    found = files.aggregate(size=Sum("artifact__size"), files=Count("pk"), saved=Count("artifact"))
    is_saved = found["files"] == found["saved"]
    return (found["size"] or 0 if is_saved else None), is_saved
