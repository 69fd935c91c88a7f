"""Decode the path of a content URL, limit its length, and split it into domain and path."""

from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from django.conf import settings
from starlette.exceptions import HTTPException
from starlette.types import Scope

# Bytes of the longest path of a URL, percent-encoded. PostgreSQL cannot index longer ones, and the
# limit bounds the cost of splitting and comparing paths.
MAX_PATH_BYTES = 8190


# Characters of the longest base path: the limit of an entry of PostgreSQL's unique b-tree index.
MAX_BASE_PATH_LENGTH = 2704


# Segments of the base paths that one query looks for. Few have more than five, but a requested path
# may have thousands.
BASE_PATH_SEGMENTS = 32


@dataclass(frozen=True)
class ContentPath:
    """Domain and path that a content URL names, before any lookup."""

    domain: str
    """Name of the domain; `default` if domains are disabled."""

    path: str
    """Decoded path below the content prefix and the domain, without the slash between them."""


def raw_path(scope: Scope) -> bytes:
    """Return the path of the URL as the client sent it, percent-encoded."""
    return scope.get("raw_path") or quote(scope["path"]).encode()  # optional in ASGI


def raw_path_below(scope: Scope) -> bytes:
    """Return `raw_path` without the root path (ASGI `root_path`, the mount point)."""
    return raw_path(scope).removeprefix(quote(scope.get("root_path", "")).encode())


def decoded_path(scope: Scope) -> str:
    """Return the percent-decoded path of the request, as the client sent it.

    Not `scope["path"]`, in which servers replace invalid UTF-8. `%2F` is decoded to a slash, which
    scoped npm packages rely on.

    Raises `HTTPException`: 414 for a path of over `MAX_PATH_BYTES`, 400 for one that is not UTF-8
    or contains NUL, which PostgreSQL cannot store.
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

    Raises `HTTPException` 404 if domains are enabled and `path` names none.
    """
    if not settings.DOMAIN_ENABLED:
        return ContentPath("default", path)
    domain, _, rest = path.partition("/")
    if not domain:
        raise HTTPException(404, "The URL names no domain.")
    return ContentPath(domain, rest)


def prefixes(path: str) -> list[str]:
    """Return the prefixes of `path` that are whole segments, shortest first.

    At most `BASE_PATH_SEGMENTS`, and none longer than `MAX_BASE_PATH_LENGTH`.
    """
    head, end = f"{path}/"[: MAX_BASE_PATH_LENGTH + 1], 0
    found: list[str] = []
    while len(found) < BASE_PATH_SEGMENTS and (end := head.find("/", end + 1)) > 0:
        found.append(head[:end])
    return found
