"""Requests for a path as it stands: clients tidy URLs up."""

import http.client
from contextlib import closing

import httpx


def get_as_it_stands(
    origin: str, target: str, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Send GET for `target`, path and query, to the server at `origin`; return status and body."""
    url = httpx.URL(origin)
    with closing(http.client.HTTPConnection(url.host, url.port, timeout=60)) as connection:
        connection.request("GET", target, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
