"""Queries for facts about a file in place of its bytes: `?info` and `?checksum=sha256`."""

from urllib.parse import parse_qsl

from starlette.types import Scope

INFO, CHECKSUM = "info", "checksum"


def file_query(scope: Scope) -> tuple[str, str] | None:
    """Return `("info", "")` or `("checksum", algorithm)` if the query asks for that, or None.

    `info` has no value: `info=1` may be a parameter of another application.
    """
    query: bytes = scope.get("query_string", b"")
    if not query or (b"info" not in query and b"checksum=" not in query):
        return None
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == CHECKSUM or (name == INFO and not value):
            return name, value
    return None
