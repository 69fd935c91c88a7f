"""Headers for CDNs and other caches: Cache-Control, surrogate keys, `Vary`, CORS, X-PULP-CACHE."""

from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from starlette.datastructures import MutableHeaders

from pulpcore.content_star.request_info import RequestInfo
from pulpcore.content_star.resolve.content import ContentSource
from pulpcore.plugin.models import ContentGuard, Distribution

RawHeader = tuple[bytes, bytes]

# Caches store responses but revalidate each with the headers of the current request, so that the
# content guard decides about that client.
CACHE_CONTROL = "public, max-age=0, must-revalidate"

# Content guards that decide by the user, by the client certificate, or by the URL itself.
_CREDENTIAL_GUARDS = frozenset(
    {"core.rbac", "core.content_redirect", "certguard.x509", "certguard.rhsm"}
)
_KEY_HEADERS = frozenset({b"surrogate-key", b"cache-tag"})

# Statuses of responses that upstream's cache stores.
_CACHEABLE = frozenset({200, 206, 302, 304, 404})

_CREDENTIAL_HEADERS = ("Authorization", "Cookie", "X-CLIENT-CERT")

# Any origin may read public content, without credentials. Scripts see the headers that they need to
# resume, verify and revalidate a download (Fetch section 3.3.2).
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
    """Return the surrogate keys of a response of `distribution`, made from `source`.

    They name the objects whose change may change the response.
    """
    keys = [f"distribution-{distribution.pk}"]
    repository = distribution.repository_id
    if source and source.version:
        repository = source.version.repository_id
    if repository:
        keys.append(f"repository-{repository}")
    if source and source.version:
        keys.append(f"version-{source.version.pk}")
    if source and source.publication:
        keys.append(f"publication-{source.publication.pk}")
    return tuple(keys)


def vary_headers(guard: ContentGuard | None) -> tuple[str, ...]:
    """Return the names of the request headers that `guard` may decide by, for `Vary`.

    `*` for guards of other types, which may decide by anything (RFC 9110 section 12.5.5).
    """
    if guard is None:
        return ()
    if guard.pulp_type not in _CREDENTIAL_GUARDS:
        return ("*",)
    environ = (settings.REMOTE_USER_ENVIRON_NAME, settings.AUTHENTICATION_JSON_HEADER)
    configured = (name[5:].replace("_", "-") for name in environ if name.startswith("HTTP_"))
    return (*_CREDENTIAL_HEADERS, *configured)


def add_cdn_headers(headers: Iterable[RawHeader], info: RequestInfo) -> list[RawHeader]:
    """Return a new list of `headers` and the headers for caches that `info` calls for.

    Responses of no distribution get none.
    """
    raw = list(headers)  # a copy: cached responses send their headers again
    if info.pulp_type is None:  # no distribution
        return raw
    known = dict(raw)
    # `info.vary` is empty only without a content guard: the content is public.
    if settings.CONTENT_STAR_CORS and not info.vary and _CORS[0][0] not in known:
        raw += _CORS
    cache_control = known.get(b"cache-control")
    if cache_control is None:
        cache_control = CACHE_CONTROL.encode()
        raw.append((b"cache-control", cache_control))
    if info.surrogate_keys:
        if _KEY_HEADERS.isdisjoint(known):
            raw += _key_headers(info.surrogate_keys)
        else:
            mutable = MutableHeaders(raw=raw)
            _join(mutable, "Surrogate-Key", " ", info.surrogate_keys)
            _join(mutable, "Cache-Tag", ",", info.surrogate_keys)
    if info.vary and not _requires_revalidation(cache_control):
        mutable = MutableHeaders(raw=raw)
        for name in info.vary:
            mutable.add_vary_header(name)
    return raw


def cache_header(info: RequestInfo, status: int) -> list[RawHeader]:
    """Return `X-PULP-CACHE` where Pulp's cache is on, `HIT` or `MISS` as upstream sends it.

    On files, listings, storage redirects and 404s that are cached or cacheable. A 304 has it only
    for a HIT. Stale responses have `Cache-Status` (RFC 9211), with the time to live that is over.
    """
    if info.stale_seconds is not None:
        return [(b"cache-status", f"pulp; hit; ttl=-{max(1, info.stale_seconds):.0f}".encode())]
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
def _key_headers(keys: tuple[str, ...]) -> list[RawHeader]:
    """Return Surrogate-Key, for Fastly and Varnish, and Cache-Tag, for Cloudflare and Akamai."""
    return [
        (b"surrogate-key", " ".join(keys).encode("latin-1")),
        (b"cache-tag", ",".join(keys).encode("latin-1")),
    ]


@lru_cache
def _requires_revalidation(cache_control: bytes) -> bool:
    """Return whether shared caches must revalidate each response (RFC 9111 section 5.2.2)."""
    directives = {
        directive.strip().lower() for directive in cache_control.decode("latin-1").split(",")
    }
    if any(name.startswith("s-maxage=") and name != "s-maxage=0" for name in directives):
        return False
    return not directives.isdisjoint(("max-age=0", "no-cache", "no-store", "private"))


def _join(headers: MutableHeaders, name: str, separator: str, values: tuple[str, ...]) -> None:
    """Append values to a header that a plugin may have set."""
    present = headers.getlist(name)
    headers[name] = separator.join([*present, *values])
