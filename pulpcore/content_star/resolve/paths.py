"""The path of a content URL: decoded, bounded, and split into its parts."""

from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from django.conf import settings
from starlette.exceptions import HTTPException
from starlette.types import Scope

# Bytes of a URL's path, as sent. Longer ones are no paths of anything: PostgreSQL cannot index
# them, and what splits or compares paths stays cheap.
MAX_PATH_BYTES = 8190


# Characters of a base path: PostgreSQL's b-tree, which keeps them unique, takes no longer entry.
MAX_BASE_PATH_LENGTH = 2704


# Segments of a base path that are looked for in one query. Hardly one has more than five, and a
# path may have thousands.
BASE_PATH_SEGMENTS = 32


@dataclass(frozen=True)
class ContentPath:
    """What a content URL names, before anything is looked up."""

    domain: str
    """Name of the domain; `default` where domains are off."""

    path: str
    """Path below the content prefix and the domain, decoded, without a leading slash of its own."""


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


def parse_content_path(path: str) -> ContentPath:
    """Split `path`, the part of the URL below the content prefix, into domain and path.

    Raises `HTTPException` 404 where domains are on and `path` names none.
    """
    if not settings.DOMAIN_ENABLED:
        return ContentPath("default", path)
    domain, _, rest = path.partition("/")
    if not domain:
        raise HTTPException(404, "The URL names no domain.")
    return ContentPath(domain, rest)


def prefixes(path: str) -> list[str]:
    """Return the prefixes of `path` that end where a segment does, shortest first.

    At most `BASE_PATH_SEGMENTS`, and none that is too long for a base path.
    """
    head, end = f"{path}/"[: MAX_BASE_PATH_LENGTH + 1], 0
    found: list[str] = []
    while len(found) < BASE_PATH_SEGMENTS and (end := head.find("/", end + 1)) > 0:
        found.append(head[:end])
    return found
