"""When a difference of `docs/differences.md` explains what differs between two responses.

The table says which parts may differ. A condition says for which requests, as narrowly as the
responses allow: a wrong `ETag` is a fault, although entity tags differ on purpose.
"""

import re
from collections.abc import Callable

from pulpcore.content_star.cli.compare.exchange import Exchange, Kind

Condition = Callable[[Exchange, str], bool]
"""Gets an exchange and one of the facets that differ in it."""

_REDIRECTS = (301, 302, 307, 308)
_VALIDATORS = ("etag", "last-modified")
_FILE_NAME = re.compile(r"filename\*?=", re.IGNORECASE)


def _added(exchange: Exchange, facet: str) -> bool:
    """Return whether the header is there, and the old server has none."""
    return not exchange.old.header(facet) and bool(exchange.new.header(facet))


def _validators(exchange: Exchange, facet: str) -> bool:
    """Return whether the entity tag is the sha256 of the old server's bytes."""
    new = exchange.new
    if exchange.old.status not in (200, 206) or new.listing is not None:
        return False
    if facet == "last-modified":
        return bool(new.header("last-modified"))
    if exchange.sha256:
        return new.header("etag") == f'"{exchange.sha256}"'
    return new.has_sha256_etag


def _security_headers(exchange: Exchange, facet: str) -> bool:
    if exchange.new.is_error:
        return False
    if facet == "content-disposition":
        return _FILE_NAME.search(exchange.new.header(facet)) is not None
    return _added(exchange, facet)


def _error_text(exchange: Exchange, facet: str) -> bool:
    """Return whether the error is text or JSON; an HTML page is a web server's in front."""
    if not exchange.old.is_error or exchange.old.status != exchange.new.status:
        return False
    if facet == "content-type":
        kind = exchange.new.header(facet).partition(";")[0]
        return kind in ("", "text/plain", "application/json")
    return facet != "body" or exchange.new.body_kind in ("empty", "text", "JSON")


def _listing_page(exchange: Exchange, facet: str) -> bool:
    if exchange.request.method == "HEAD":
        return False
    return exchange.old.listing is not None and exchange.new.listing is not None


def _is_json(exchange: Exchange) -> bool:
    return exchange.new.header("content-type").partition(";")[0] == "application/json"


def _json_directory(exchange: Exchange, facet: str) -> bool:
    if not exchange.request.is_directory or exchange.new.is_error:
        return False
    if exchange.request.prefers_json and _is_json(exchange):
        return True
    return _vary(exchange, facet)


def _vary(exchange: Exchange, facet: str) -> bool:
    return facet == "vary" and exchange.new.header("vary").lower() == "accept"


def _directory_head(exchange: Exchange, facet: str) -> bool:
    if exchange.request.method != "HEAD" or not exchange.request.is_directory:
        return False
    if facet == "content-length":
        return not exchange.new.header(facet)
    return exchange.statuses(200, 200)


def _empty_partial_path(exchange: Exchange, facet: str) -> bool:
    listing = exchange.old.listing or exchange.listing
    return exchange.statuses(200, 404) and listing is not None and listing.count == 0


def _same_redirect(exchange: Exchange, facet: str) -> bool:
    return exchange.old.status == exchange.new.status and exchange.old.status in _REDIRECTS


def _redirect_query(exchange: Exchange, facet: str) -> bool:
    query = exchange.request.target.partition("?")[2]
    return bool(query) and exchange.new.header("location") == (
        f"{exchange.old.header('location')}?{query}"
    )


def _index_passed_through(exchange: Exchange, facet: str) -> bool:
    listing = exchange.old.listing or exchange.listing
    return (
        exchange.statuses(200, 200)
        and exchange.new.listing is None
        and listing is not None
        and listing.entries is not None
        and listing.has("index.html")
    )


def _index_without_slash(exchange: Exchange, facet: str) -> bool:
    return exchange.statuses(200, 301) and _adds_slash(exchange, exchange.new.header("location"))


def _adds_slash(exchange: Exchange, location: str) -> bool:
    path = location.partition("?")[0]
    return not exchange.request.is_directory and path.endswith(
        f"{exchange.request.path.rpartition('/')[2]}/"
    )


def _options(exchange: Exchange, facet: str) -> bool:
    return exchange.request.method == "OPTIONS" and exchange.statuses(405, 200, 204)


def _tags(value: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in value.split(",")}


def _names_new_tag(exchange: Exchange, header: str) -> bool:
    """Return whether a header of the request has the entity tag of the new server."""
    tag = exchange.new_etag or exchange.new.header("etag") or f'"{exchange.sha256}"'
    return tag.removeprefix("W/") in _tags(exchange.request.header(header))


def _weak_comparison(exchange: Exchange, facet: str) -> bool:
    return exchange.statuses(200, 304) and _names_new_tag(exchange, "if-none-match")


def _kept_validators(exchange: Exchange, facet: str) -> bool:
    """Return whether a client sends a validator that it has got from the old server."""
    request = exchange.request
    if {exchange.old.status, exchange.new.status} != {200, 304}:
        return False
    if tags := request.header("if-none-match"):
        return (
            exchange.new.status == 200
            and not _names_new_tag(exchange, "if-none-match")
            and (exchange.old.header("etag").removeprefix("W/") in _tags(tags))
        )
    return bool(request.header("if-modified-since"))


def _not_modified(exchange: Exchange, facet: str) -> bool:
    if not exchange.statuses(304, 304):
        return False
    if facet != "etag":
        return not exchange.new.header(facet)
    return (
        exchange.new.header("etag") == f'"{exchange.sha256}"'
        if exchange.sha256
        else (exchange.new.has_sha256_etag)
    )


def _if_match(exchange: Exchange, facet: str) -> bool:
    return exchange.statuses(412, 200, 206) and _names_new_tag(exchange, "if-match")


def _unit(exchange: Exchange, facet: str) -> bool:
    unit = exchange.request.header("range").partition("=")[0].strip().lower()
    return exchange.statuses(416, 200) and unit != "bytes"


def _several_ranges(exchange: Exchange, facet: str) -> bool:
    multipart = exchange.new.header("content-type").startswith("multipart/byteranges")
    return exchange.statuses(416, 206) and multipart


def _if_range(exchange: Exchange, facet: str) -> bool:
    if not exchange.request.header("if-range"):
        return False
    return exchange.statuses(206, 200) and not _names_new_tag(exchange, "if-range")


def _head_range(exchange: Exchange, facet: str) -> bool:
    return exchange.request.method == "HEAD" and exchange.statuses(206, 200)


def _not_modified_redirect(exchange: Exchange, facet: str) -> bool:
    return exchange.statuses(304, 304) and "no-store" in exchange.old.header("cache-control")


def _if_match_of_object(exchange: Exchange, facet: str) -> bool:
    request = exchange.request
    conditional = request.header("if-match") or request.header("if-unmodified-since")
    return (
        bool(conditional) and exchange.new.status == 412 and exchange.old.status in (200, 206, 302)
    )


def _invalid_checkpoint(exchange: Exchange, facet: str) -> bool:
    return (
        exchange.old.status in _REDIRECTS
        and exchange.statuses(exchange.old.status, 404)
        and _adds_slash(exchange, exchange.old.header("location"))
        and exchange.redirected_status == 404
    )


def _added_validators(exchange: Exchange, facet: str) -> bool:
    if facet == "etag" and not _validators(exchange, facet):
        return False
    return _added(exchange, facet)


def _from_remote(exchange: Exchange, facet: str) -> bool:
    return exchange.on_demand and exchange.old.status == exchange.new.status


def _path(old: int, new: int, matches: Callable[[Exchange], bool]) -> Condition:
    """Return a condition of both statuses and the request."""
    return lambda exchange, facet: exchange.statuses(old, new) and matches(exchange)


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _long_path(exchange: Exchange, facet: str) -> bool:
    return exchange.statuses(exchange.old.status, 414) and len(exchange.request.path) > 8000


def _repeated_slashes(exchange: Exchange, facet: str) -> bool:
    path = f"/{exchange.request.path}"
    return "//" in path and exchange.old.status == 404 and exchange.new.status < 400


def _dot_segments(exchange: Exchange, facet: str) -> bool:
    has_dots = {b".", b".."} & set(exchange.request.raw_path.split(b"/"))
    is_served = exchange.new.status < 400 or exchange.new.status == 400
    return bool(has_dots) and exchange.old.status == 404 and is_served


def _probe(exchange: Exchange, facet: str) -> bool:
    is_probe = exchange.request.path in ("livez", "readyz")
    return is_probe and exchange.statuses(404, 200, 503)


def _schema(exchange: Exchange, facet: str) -> bool:
    names = ("openapi.json", "openapi.yaml", "docs", "docs/")
    is_schema = exchange.request.path in names
    return is_schema and exchange.old.status == 404 and exchange.new.status < 400


def _plugin_file(exchange: Exchange, facet: str) -> bool:
    if facet in _VALIDATORS:
        return _validators(exchange, facet)
    return exchange.new.is_file and bool(exchange.new.header(facet))


def _prefix(exchange: Exchange, facet: str) -> bool:
    return exchange.request.path.startswith("../") and exchange.statuses(404, 301)


def _host(exchange: Exchange, facet: str) -> bool:
    return bool(exchange.request.header("host")) and exchange.new.status == 400


def _cache_header(exchange: Exchange, facet: str) -> bool:
    return exchange.new.header(facet) in ("", "HIT", "MISS")


def _asks(exchange: Exchange) -> bool:
    return bool(exchange.new.header("www-authenticate"))


def _always(exchange: Exchange, facet: str) -> bool:
    return True


CONDITIONS: dict[str, Condition] = {
    "validators": _validators,
    "security headers": _security_headers,
    "error text": _error_text,
    "listing page": _listing_page,
    "JSON of a directory": _json_directory,
    # Links are compared decoded, so that there is nothing to explain.
    "percent-encoded links": lambda exchange, facet: False,
    "HEAD of a listing": _directory_head,
    "empty partial path": _empty_partial_path,
    "redirect body": _same_redirect,
    "redirect query": _redirect_query,
    "index.html passed through": _index_passed_through,
    "index.html without a slash": _index_without_slash,
    "method not allowed": lambda exchange, facet: exchange.statuses(405, 405),
    "OPTIONS": _options,
    "weak comparison": _weak_comparison,
    "validators that clients have": _kept_validators,
    "304": _not_modified,
    "If-Match": _if_match,
    "412": lambda exchange, facet: exchange.statuses(412, 412),
    "416": lambda exchange, facet: exchange.statuses(416, 416),
    "unknown range unit": _unit,
    "several ranges": _several_ranges,
    "If-Range": _if_range,
    "HEAD and Range": _head_range,
    "304 instead of a redirect": _not_modified_redirect,
    "If-Match in object storage": _if_match_of_object,
    "invalid checkpoint timestamp": _invalid_checkpoint,
    "artifacts by id": _added_validators,
    "on demand": _from_remote,
    "on demand and conditional": lambda exchange, facet: (
        exchange.on_demand
        and exchange.statuses(200, 304)
        and exchange.request.kind is Kind.CONDITIONAL
    ),
    "pulled through": _from_remote,
    "416 of pull-through": lambda exchange, facet: (
        exchange.statuses(416, 416) and exchange.old.header(facet) == "bytes */*"
    ),
    "remotes that cannot be reached": lambda exchange, facet: exchange.statuses(500, 502, 504),
    "plugins without pull-through": lambda exchange, facet: (
        exchange.on_demand and exchange.statuses(500, 200)
    ),
    "no remote sends it": lambda exchange, facet: exchange.statuses(404, 502, 504),
    "NUL": _path(500, 400, lambda exchange: b"\0" in exchange.request.raw_path),
    "not UTF-8": _path(404, 400, lambda exchange: not _is_utf8(exchange.request.raw_path)),
    "long paths": _long_path,
    "repeated slashes": _repeated_slashes,
    "dot segments": _dot_segments,
    "credentials missing": _path(403, 401, _asks),
    "undecodable guard header": lambda exchange, facet: exchange.statuses(500, 403),
    "user name with NUL": lambda exchange, facet: exchange.statuses(500, 403),
    "host": _host,
    "probes": _probe,
    "schema": _schema,
    "security headers of plugins": _added,
    "files of plugins": _plugin_file,
    "middlewares of plugins": _always,
    "prefix without a slash": _prefix,
    "cache header": _cache_header,
}
