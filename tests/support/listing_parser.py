"""A parser of HTML directory listings, ours and upstream's."""

import re
from html import unescape
from typing import NamedTuple
from urllib.parse import unquote

_LINE = re.compile(
    r'<a href="(?!\.\./">\.\./<)(?:\./)?(?P<href>[^"]*)">(?P<name>[^<]*)</a>\s*'
    r"(?P<date>\d{2}-\w{3}-\d{4} \d{2}:\d{2})?[ ]*(?P<size>[^<\n]*)"
)


class Line(NamedTuple):
    href: str
    date: str
    size: str


def parse_listing(html: str) -> dict[str, Line]:
    """Return the entries of a listing by name, in order, without the link to the parent."""
    return {
        unescape(match["name"]): Line(
            unquote(unescape(match["href"])), match["date"] or "", match["size"].strip()
        )
        for match in _LINE.finditer(html)
    }
