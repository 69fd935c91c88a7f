"""The part of a listing that one response shows, and the cursors that lead from part to part.

A cursor names the last entry that was shown, and the next page is what sorts after that name. No
entry comes twice or is left out because others came or went between two pages, as they would if
pages were counted, and no page costs more because many came before it.
"""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pulpcore.content_star.listings.negotiation import prefers_json

# Entries of a page of JSON: some 150 KB, read from the database in some milliseconds.
PAGE_SIZE = 1000

PARAMETER = "cursor"

# Begins every cursor, so that most of what is no cursor of ours is known as such, and so that
# another kind can be told from this one. No entry's name is secret or trusted, so none is signed.
_MARK = b">"


@dataclass(frozen=True)
class PageQuery:
    """What to read of a listing; names sort by code point, directories with their slash."""

    after: str | None = None
    """Leave out this name and all that sort before it."""

    limit: int | None = None
    """Read at most so many entries."""

    def select(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are in the window, sorted."""
        inside = sorted(name for name in names if self.after is None or name > self.after)
        return inside[: self.limit]


EVERYTHING = PageQuery()


def page_query(request: Request) -> PageQuery:
    """Return what to read for `request`: everything for HTML; a page for JSON, and one entry more.

    That one tells whether there is a next page.
    Raises `HTTPException` 400 if the cursor is not one.
    """
    if not prefers_json(request):
        return EVERYTHING
    cursor = request.query_params.get(PARAMETER)
    return PageQuery(None if cursor is None else read_cursor(cursor), PAGE_SIZE + 1)


def next_query(request: Request, last_name: str) -> str:
    """Return the query of the page after `last_name`.

    The rest of the query is kept, and in front: that is where redirect guards look for what they
    signed.
    """
    return "&".join([*kept_query(request), f"{PARAMETER}={make_cursor(last_name)}"])


def kept_query(request: Request) -> list[str]:
    """Return the members of the query that are not the cursor."""
    query: str = request.scope["query_string"].decode("latin-1")
    return [part for part in query.split("&") if part and part.partition("=")[0] != PARAMETER]


def make_cursor(name: str) -> str:
    """Return the cursor of what comes after `name`, safe in a URL."""
    return urlsafe_b64encode(_MARK + name.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> str:
    """Return the name in `cursor`; raises `HTTPException` 400 if there is none."""
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
        400, f"The '{PARAMETER}' is none that was given out: follow 'next' of a listing."
    )
