"""From the path of a URL to the distribution that answers for it.

Everything here blocks and runs behind the database door.
"""

from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from django.conf import settings
from django.db.models import Func, Q, QuerySet, TextField, Value
from django.db.models.functions import Collate, Concat, Substr
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pulpcore.app.models import (
    ArtifactDistribution,
    ContentGuard,
    Distribution,
    Domain,
    Publication,
    Repository,
    RepositoryVersion,
)
from pulpcore.content_star.lookup import Found, Source
from pulpcore.content_star.queries import DISTRIBUTION
from pulpcore.content_star.rows import Row, make
from pulpcore.content_star.window import EVERYTHING, Window

# Bytes of a URL's path, as sent. Longer ones are no paths of anything: PostgreSQL cannot index
# them, and what splits or compares paths stays cheap.
MAX_PATH_BYTES = 8190

# Characters of a base path: PostgreSQL's b-tree, which keeps them unique, takes no longer entry.
MAX_BASE_PATH_LENGTH = 2704

# Segments of a base path that are looked for in one query. Hardly one has more than five, and a
# path may have thousands.
BASE_PATH_SEGMENTS = 32


@dataclass(frozen=True)
class Address:
    """What a content URL names, before anything is looked up."""

    domain: str
    """Name of the domain; `default` where domains are off."""

    path: str
    """Path below the content prefix and the domain, decoded, without a leading slash of its own."""


@dataclass(frozen=True)
class Place:
    """A distribution, and the path below it that a request asks for."""

    distribution: Distribution
    """The detail object of the plugin's own model."""

    path: str
    """Relative to the base path, without leading slashes; empty for the distribution's root."""

    source: Source | None = None
    """What the distribution serves, if that is known already."""

    file: Found | None = None
    """The file that `source` serves at the path, if it has been looked up already."""


def raw_path(scope: Scope) -> bytes:
    """Return the path of the URL as the client sent it, percent-encoded."""
    return scope.get("raw_path") or quote(scope["path"]).encode()  # ASGI leaves it to the server


def raw_path_below(scope: Scope) -> bytes:
    """Return `raw_path` without the root path, which a proxy in front has stripped."""
    return raw_path(scope).removeprefix(quote(scope.get("root_path", "")).encode())


def decoded_path(scope: Scope) -> str:
    """Return the percent-decoded path of the request, as the client sent it.

    `scope["path"]` cannot be used: servers replace what is not UTF-8. `%2F` becomes a slash, which
    scoped npm packages rely on.

    Raises `HTTPException`: 414 for a path of over `MAX_PATH_BYTES`, 400 for one that is not UTF-8
    or contains NUL, which no stored path can.
    """
    raw = raw_path(scope)
    if len(raw) > MAX_PATH_BYTES:
        raise HTTPException(414, f"The path of the URL is over {MAX_PATH_BYTES} bytes long.")
    try:
        path = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise HTTPException(400, "The path of the URL is not UTF-8.") from None
    if "\0" in path:
        raise HTTPException(400, "The path of the URL contains a NUL character.")
    return path


def parse_address(path: str) -> Address:
    """Split `path`, the part of the URL below the content prefix, into domain and path.

    Raises `HTTPException` 404 where domains are on and `path` names none.
    """
    if not settings.DOMAIN_ENABLED:
        return Address("default", path)
    domain, _, rest = path.partition("/")
    if not domain:
        raise HTTPException(404, "The URL names no domain.")
    return Address(domain, rest)


def locate(address: Address) -> Place | None:
    """Find the distribution whose base path is a prefix of the address, or None.

    Newer pulpcore lets no base path nest in another; where they do, the longest one wins.
    Raises `HTTPException` 501 if the plugin that the distribution belongs to is not installed.
    """
    row = DISTRIBUTION.one({"domain": address.domain, "prefixes": prefixes(address.path)})
    if deeper := _deeper_base_paths(address):
        row = DISTRIBUTION.one({"domain": address.domain, "prefixes": deeper}) or row
    if row is None:
        return None
    distribution = _distribution(row)
    return Place(distribution, address.path[len(distribution.base_path) :].lstrip("/"))


def find_domain(address: Address) -> Domain:
    """Return the domain of the address; raises `HTTPException` 404 if there is none."""
    try:
        return Domain.objects.get(name=address.domain)
    except Domain.DoesNotExist:
        raise HTTPException(404, f"There is no domain '{address.domain}'.") from None


def next_segments(domain: Domain, prefix: str, window: Window = EVERYTHING) -> list[str]:
    """List what follows `prefix` in the base paths of a domain, one path segment deep.

    They end in a slash and are sorted; `prefix` is empty or ends in a slash too. Hidden
    distributions, the one that serves artifacts by id, and guarded ones where the domain or the
    settings say so, do not show.
    """
    below, slash = Substr("base_path", len(prefix) + 1), Value("/", TextField())
    segment = Func(below, slash, Value(1), function="split_part", output_field=TextField())
    segments = (
        _visible(domain)
        .filter(base_path__startswith=prefix)
        .annotate(segment=Collate(Concat(segment, slash), "C"))  # code points, as Python
        .order_by("segment")
        .values_list("segment", flat=True)
        .distinct()
    )
    if window.after is not None:
        segments = segments.filter(segment__gt=window.after)
    return list(segments[: window.limit])


def _deeper_base_paths(address: Address) -> list[str]:
    """Return the base paths of over `BASE_PATH_SEGMENTS` segments that `address` is below."""
    if address.path.count("/") < BASE_PATH_SEGMENTS:
        return []
    longest = prefixes(address.path)[-1]
    deep = Distribution.objects.filter(
        pulp_domain__name=address.domain, base_path__startswith=f"{longest}/"
    ).values_list("base_path", flat=True)
    return [each for each in deep if f"{address.path}/".startswith(f"{each}/")]


def _distribution(row: Row) -> Distribution:
    """Return the detail object of the plugin's own model.

    The plugin's columns are deferred: it is asked for them only when it looks at them, which the
    most do not to serve a file.
    """
    columns = row.columns_of(Distribution)
    assert columns is not None
    try:
        model = Distribution.get_model_for_pulp_type(columns["pulp_type"])
    except KeyError:
        raise HTTPException(
            501, f"The plugin that serves '{columns['pulp_type']}' is not installed."
        ) from None
    distribution = make(model, {**columns, model._meta.pk.attname: columns["pulp_id"]})
    distribution.pulp_domain = row.instance(Domain)
    distribution.content_guard = row.instance(ContentGuard)
    distribution.repository = row.instance(Repository)
    distribution.repository_version = row.instance(RepositoryVersion)
    distribution.publication = row.instance(Publication)
    published = row.instance(RepositoryVersion)
    if distribution.publication is not None:
        distribution.publication.repository_version = published
    return distribution


def _visible(domain: Domain) -> QuerySet[Distribution]:
    concealed = Q(hidden=True) | Q(pulp_type=ArtifactDistribution.get_pulp_type())
    distributions = Distribution.objects.filter(pulp_domain=domain).exclude(concealed)
    if settings.HIDE_GUARDED_DISTRIBUTIONS or domain.hide_guarded_distributions:
        distributions = distributions.filter(content_guard=None)
    return distributions


def prefixes(path: str) -> list[str]:
    """Return the prefixes of `path` that end where a segment does, shortest first.

    At most `BASE_PATH_SEGMENTS`, and none that is too long for a base path.
    """
    head, end = f"{path}/"[: MAX_BASE_PATH_LENGTH + 1], 0
    found: list[str] = []
    while len(found) < BASE_PATH_SEGMENTS and (end := head.find("/", end + 1)) > 0:
        found.append(head[:end])
    return found
