"""Queries for facts in place of content: `?info`, `?checksum=sha256` and `?use`."""

from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.types import Scope

from pulpcore.content_star.listings.pagination import member_name

INFO, CHECKSUM, USE = "info", "checksum", "use"


def facts_query(scope: Scope) -> tuple[str, str] | None:
    """Return `("info", "")`, `("checksum", algorithm)` or `("use", "")`, as in the query, or None.

    `info` and `use` have no value: `info=1` may be a parameter of another application. `use` is of
    a distribution, whose URL ends in a slash; files ignore it, as any other parameter.
    """
    query: bytes = scope.get("query_string", b"")
    if not query or not any(part in query for part in (b"info", b"checksum", b"use", b"%")):
        return None
    names = (INFO, USE) if scope["path"].endswith("/") else (INFO,)
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == CHECKSUM or (name in names and not value):
            return name, value
    return None


def query_without_facts(scope: Scope) -> str:
    """Return the rest of the query, such as the token of a guard, with `?`, or an empty string."""
    members = scope["query_string"].decode("latin-1").split("&")
    kept = [member for member in members if member and not _asks_for_facts(member)]
    return f"?{'&'.join(kept)}" if kept else ""


def _asks_for_facts(member: str) -> bool:
    name, has_value = member_name(member), bool(member.partition("=")[2])
    return name == CHECKSUM or (name in (INFO, USE) and not has_value)


def refuse_facts(scope: Scope) -> None:
    """Raise `HTTPException` 400 if the query asks for facts, which a directory does not have."""
    if query := facts_query(scope):
        owners = "the root of a distribution" if query[0] == USE else "files"
        raise HTTPException(
            400, f"The query parameter '{query[0]}' is for {owners}; this is a directory."
        )
