"""Keyset pagination of listings: page queries and cursors.

A cursor contains the last name of a page, and the next page starts after it. Unlike with offsets,
no entry is repeated or missed if others are added or removed between two requests, and a late page
costs no more than the first.
"""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_plus

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pulpcore.content_star.listings.negotiation import prefers_json

# Entries of a JSON page: some 150 KB, read from the database in some milliseconds.
PAGE_SIZE = 1000

PARAMETER = "cursor"

# Prefix of every cursor, by which most invalid ones are detected, and by which another format could
# be distinguished. Cursors are not signed, since names in them are neither secret nor trusted.
_MARK = b">"


@dataclass(frozen=True)
class PageQuery:
    """Range of a listing to read; names sort by code point, directories with their slash."""

    after: str | None = None
    """Exclude this name and all that sort before it."""

    limit: int | None = None
    """Maximum number of entries to read; None for all."""

    def select(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are on the page, sorted."""
        inside = sorted(name for name in names if self.after is None or name > self.after)
        return inside[: self.limit]


ALL_ENTRIES = PageQuery()


def page_query(request: Request) -> PageQuery:
    """Return the page query of `request`: all entries for HTML, one page and one entry for JSON.

    The additional entry shows whether there is a next page.
    Raises `HTTPException` 400 if the cursor is invalid.
    """
    if not prefers_json(request):
        return ALL_ENTRIES
    cursor = request.query_params.get(PARAMETER)
    return PageQuery(None if cursor is None else read_cursor(cursor), PAGE_SIZE + 1)


def next_query(request: Request, last_name: str) -> str:
    """Return the query string of the page after `last_name`.

    The other members of the query come first, where redirect guards expect what they signed.
    """
    return "&".join([*query_without_cursor(request), f"{PARAMETER}={make_cursor(last_name)}"])


def query_without_cursor(request: Request) -> list[str]:
    """Return the members of the query string except the cursor."""
    query: str = request.scope["query_string"].decode("latin-1")
    return [part for part in query.split("&") if part and member_name(part) != PARAMETER]


def member_name(member: str) -> str:
    """Return the decoded name of a member of a query string."""
    return unquote_plus(member.partition("=")[0])


def make_cursor(name: str) -> str:
    """Return the cursor of the page after `name`, in URL-safe base64."""
    return urlsafe_b64encode(_MARK + name.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> str:
    """Return the name in `cursor`; raises `HTTPException` 400 if it is invalid."""
    try:
        raw = b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name = raw.removeprefix(_MARK).decode()
    except ValueError:
        raise _bad_cursor() from None
    if not raw.startswith(_MARK) or "\0" in name:
        raise _bad_cursor()
    return name


def _bad_cursor() -> HTTPException:
    return HTTPException(
        400, f"The query parameter '{PARAMETER}' is invalid: follow the links of a listing."
    )
