"""What caches in front of Pulp are told: to ask each time, names to purge by, and `Vary`."""

from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from starlette.datastructures import MutableHeaders

from pulpcore.app.models import ContentGuard, Distribution
from pulpcore.content_star.request_info import RequestInfo
from pulpcore.content_star.resolve.content import ContentSource

RawHeader = tuple[bytes, bytes]

# Caches may keep what they get, but ask each time whether it still holds: with the headers of the
# client that wants it, so that the guard decides about that one.
CACHE_CONTROL = "public, max-age=0, must-revalidate"

# Guards that decide by who the user is, by the client's certificate, or by the URL itself.
_GUARDS_OF_CREDENTIALS = frozenset(
    {"core.rbac", "core.content_redirect", "certguard.x509", "certguard.rhsm"}
)
_TAGS = frozenset({b"surrogate-key", b"cache-tag"})

# Statuses of answers that upstream's cache takes.
_CACHEABLE = frozenset({200, 206, 302, 304, 404})

_CREDENTIALS = ("Authorization", "Cookie", "X-CLIENT-CERT")

# Any origin may read: what is sent to everyone is no secret, and no credentials come along. The
# headers are those that programs need to read on, to verify and to ask again (Fetch 3.3.2).
_CORS: list[RawHeader] = [
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Repr-Digest",
    ),
]
PREFLIGHT = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "If-Match, If-Modified-Since, If-None-Match, If-Range, Range",
    "Access-Control-Max-Age": "600",
}


def surrogate_keys(
    distribution: Distribution, source: ContentSource | None = None
) -> tuple[str, ...]:
    """Name everything whose change may change an answer of `distribution`, which took `source`."""
    tags = [f"distribution-{distribution.pk}"]
    repository = distribution.repository_id
    if source and source.version:
        repository = source.version.repository_id
    if repository:
        tags.append(f"repository-{repository}")
    if source and source.version:
        tags.append(f"version-{source.version.pk}")
    if source and source.publication:
        tags.append(f"publication-{source.publication.pk}")
    return tuple(tags)


def vary_headers(guard: ContentGuard | None) -> tuple[str, ...]:
    """Name the request headers that `guard` may decide by, for answers that caches may reuse.

    `*` if that cannot be known without asking: another request may always get another answer then
    (RFC 9110 section 12.5.5).
    """
    if guard is None:
        return ()
    if guard.pulp_type not in _GUARDS_OF_CREDENTIALS:
        return ("*",)
    environ = (settings.REMOTE_USER_ENVIRON_NAME, settings.AUTHENTICATION_JSON_HEADER)
    configured = (name[5:].replace("_", "-") for name in environ if name.startswith("HTTP_"))
    return (*_CREDENTIALS, *configured)


def add_cdn_headers(headers: Iterable[RawHeader], info: RequestInfo) -> list[RawHeader]:
    """Return `headers` of an answer and what the exchange adds to them, in a list of its own."""
    raw = list(headers)  # a response may send its headers again
    if info.pulp_type is None:  # not below a distribution
        return raw
    known = dict(raw)
    # `vary_headers` names nothing only where there is no guard.
    if settings.CONTENT_STAR_CORS and not info.vary and _CORS[0][0] not in known:
        raw += _CORS
    cache_control = known.get(b"cache-control")
    if cache_control is None:
        cache_control = CACHE_CONTROL.encode()
        raw.append((b"cache-control", cache_control))
    if info.tags:
        if _TAGS.isdisjoint(known):
            raw += _named(info.tags)
        else:
            mutable = MutableHeaders(raw=raw)
            _join(mutable, "Surrogate-Key", " ", info.tags)
            _join(mutable, "Cache-Tag", ",", info.tags)
    if info.vary and not _is_asked_for_each_time(cache_control):
        mutable = MutableHeaders(raw=raw)
        for name in info.vary:
            mutable.add_vary_header(name)
    return raw


def cache_header(info: RequestInfo, status: int) -> list[RawHeader]:
    """Return `X-PULP-CACHE` where Pulp's cache is on, `HIT` or `MISS` as upstream sends it.

    On files, listings, redirects to a storage and 404s that are kept or could be; a 304 is a HIT
    or has none.
    """
    is_miss = info.cache == "MISS"
    if info.cache is None or status not in _CACHEABLE or (is_miss and status == 304):
        return []
    if not _is_cache_enabled():
        return []
    return [(b"x-pulp-cache", info.cache.encode())]


@lru_cache
def _is_cache_enabled() -> bool:
    return bool(settings.CACHE_ENABLED)


@lru_cache(4096)
def _named(tags: tuple[str, ...]) -> list[RawHeader]:
    """Return the headers for `tags` as Fastly and Varnish read them, and as Cloudflare and Akamai
    do."""
    return [
        (b"surrogate-key", " ".join(tags).encode("latin-1")),
        (b"cache-tag", ",".join(tags).encode("latin-1")),
    ]


@lru_cache
def _is_asked_for_each_time(cache_control: bytes) -> bool:
    """Tell whether no cache may answer with what it has without asking (RFC 9111 section 5.2.2)."""
    directives = {
        directive.strip().lower() for directive in cache_control.decode("latin-1").split(",")
    }
    if any(each.startswith("s-maxage=") and each != "s-maxage=0" for each in directives):
        return False
    return not directives.isdisjoint(("max-age=0", "no-cache", "no-store", "private"))


def _join(headers: MutableHeaders, name: str, separator: str, values: tuple[str, ...]) -> None:
    """Add to a header that a plugin may have set."""
    plugins = headers.getlist(name)
    headers[name] = separator.join([*plugins, *values])
