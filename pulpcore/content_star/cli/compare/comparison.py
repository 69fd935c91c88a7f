"""Which parts of two responses differ, and which of these differences are intended."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pulpcore.content_star.cli.compare.conditions import CONDITIONS
from pulpcore.content_star.cli.compare.exchange import Exchange, Response
from pulpcore.content_star.cli.compare.shell import MASK, masked
from pulpcore.content_star.differences import DIFFERENCES

IGNORED_HEADERS = {
    # Of the connection, the server, or a proxy in front (RFC 9110 section 7.6.1).
    *("connection", "keep-alive", "transfer-encoding", "date", "server", "via", "age", "x-cache"),
    *("x-request-id", "alt-svc"),
    # Only in the new app's responses, and listed in docs/differences.md.
    *("correlation-id", "surrogate-key", "cache-tag", "repr-digest", "cache-status"),
}

_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
# Of Pulp, S3 (version 2), CloudFront, Google and Azure (shared access signatures).
_SIGNATURE = {
    *("validate_token", "expires", "signature", "awsaccesskeyid", "googleaccessid", "key-pair-id"),
    *("policy", "se", "sig", "sip", "sks", "ske", "skt", "sktid", "skv", "sp", "spr", "sr", "st"),
    *("sv", "rscd", "response-content-disposition"),  # a file name that only the new app sends
}

_ABSENT = "(absent)"
_SECRET_HEADER = re.compile(r"cookie|token|secret|session|passw|api-?key", re.IGNORECASE)
_MAX_VALUE = 200


@dataclass(frozen=True)
class Finding:
    """One part of two responses that differs."""

    facet: str
    """`status`, `transfer`, `body`, `listing`, or the name of a header."""

    old: str
    new: str
    difference: str = ""
    """Name of the intended difference that explains it; empty for a fault."""


def compare(exchange: Exchange, ignored: Iterable[str] = ()) -> list[Finding]:
    """Return what differs between the two responses of an exchange."""
    skipped = IGNORED_HEADERS.union(ignored)
    found = {facet: values for facet, values in _facets(exchange) if facet not in skipped}
    explained = {facet: _explain(exchange, facet) for facet in found}
    return [
        Finding(facet, _cut(old), _cut(new), explained[facet])
        for facet, (old, new) in found.items()
    ]


def redirect_target(location: str) -> str:
    """Return a Location without its signature; one that is no URL as it is."""
    try:
        url = urlsplit(location)
    except ValueError:
        return location
    query = [(name, value) for name, value in parse_qsl(url.query, True) if not _signs(name)]
    return urlunsplit(url._replace(query=urlencode(query)))


def _signs(name: str) -> bool:
    return name.lower() in _SIGNATURE or name.lower().startswith(_SIGNATURE_PREFIXES)


def _facets(exchange: Exchange) -> Iterable[tuple[str, tuple[str, str]]]:
    """Yield the parts that differ; with another status, all the rest is another response."""
    old, new = exchange.old, exchange.new
    if old.broken or new.broken:
        yield "transfer", (old.broken or _whole(old), new.broken or _whole(new))
    elif old.status != new.status:
        yield "status", (str(old.status), str(new.status))
    else:
        yield from _header_facets(old, new)
        yield from _body_facets(old, new)


def _header_facets(old: Response, new: Response) -> Iterable[tuple[str, tuple[str, str]]]:
    for name in sorted({*map(str.lower, old.headers), *map(str.lower, new.headers)}):
        values = old.header(name), new.header(name)
        if name == "location":
            values = redirect_target(values[0]), redirect_target(values[1])
        if values[0] != values[1]:
            yield name, (_shown(name, values[0]), _shown(name, values[1]))


def _shown(name: str, value: str) -> str:
    """Return the value of a header as reports show it, without secrets."""
    if not value:
        return _ABSENT
    if _SECRET_HEADER.search(name):
        return MASK
    return masked(value) if name == "location" else value


def _body_facets(old: Response, new: Response) -> Iterable[tuple[str, tuple[str, str]]]:
    if old.listing is not None and new.listing is not None:
        if old.listing != new.listing:
            yield "listing", (old.listing.without(new.listing), new.listing.without(old.listing))
    elif old.is_error:
        if old.body_kind != new.body_kind:
            yield "body", (old.body_kind, new.body_kind)
    elif old.sha256 != new.sha256:
        yield "body", (_whole(old), _whole(new))


def _whole(response: Response) -> str:
    return f"{response.size} bytes, sha256 {response.sha256 or '(none)'}"


def _explain(exchange: Exchange, facet: str) -> str:
    """Return the name of the intended difference, or an empty string."""
    for name, difference in DIFFERENCES.items():
        if facet in difference.facets and CONDITIONS[name](exchange, facet):
            return name
    return ""


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}..."


def reasons(names: Iterable[str]) -> Mapping[str, str]:
    """Return the reasons of intended differences by name."""
    return {name: DIFFERENCES[name].reason for name in names}
