"""Internal redirects: a redirect of the API to content is served in the same response."""

from collections.abc import Callable
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from django_guid.config import settings
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REDIRECTS = frozenset({301, 302, 303, 307, 308})

_DOTS = frozenset({".", ".."})

# Headers of the redirect that are sent with the content, and headers of either response that are
# replaced.
_MERGED_HEADERS = frozenset({b"set-cookie", b"vary"})
_REPLACED_HEADERS = frozenset({b"cache-control", b"expires"})

_ID = settings.guid_header_name.lower().encode()


class InternalRedirect:
    """ASGI middleware around Django that serves the content that it redirects to.

    The APIs of plugins redirect to content (pulp_container for blobs, pulp_npm for tarballs); an
    internal redirect saves the client a request. Guards run as for a separate request. Only GET and
    HEAD, and only one redirect: one of content is sent to the client, so that there is no loop and
    no `Authorization` reaches an object storage.

    Redirects to directories are sent to the client: links in listings are relative to their URL.
    """

    def __init__(self, app: ASGIApp, content: ASGIApp, is_content: Callable[[Scope], bool]) -> None:
        """`is_content` returns whether `content` serves the path of a scope."""
        self.app = app
        self.content = content
        self.is_content = is_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        redirect: Message | None = None
        target: Scope | None = None

        async def watched_send(message: Message) -> None:
            nonlocal redirect, target
            if message["type"] == "http.response.start" and message["status"] in REDIRECTS:
                redirect = _lower_case(message)
                target = self._target(scope, redirect)
            if target is None:
                await send(message)

        await self.app(scope, receive, watched_send)
        if redirect is not None and target is not None:
            await self.content(target, receive, _merged_send(redirect, send))

    def _target(self, scope: Scope, redirect: Message) -> Scope | None:
        """Return the scope for the redirect's location, None if this process does not serve it."""
        request, response = Headers(scope=scope), Headers(raw=redirect["headers"])
        raw_path = scope.get("raw_path") or scope["path"].encode()
        try:
            url = urlsplit(urljoin(raw_path.decode("latin-1"), response.get("location", "")))
            if (
                not url.path
                or url.path.endswith("/")
                or not _is_at_host(url, request.get("host", ""))
            ):
                return None
            path = unquote_to_bytes(url.path).decode("utf-8", "surrogateescape")
            if _DOTS & set(path.split("/")):  # a client would resolve them
                return None
            root_path = scope.get("root_path", "")
            target = {
                **scope,
                "headers": _headers_with_id(redirect, scope),
                "path": path,
                "raw_path": url.path.encode("ascii"),
                "query_string": url.query.encode("ascii"),
                # CONTENT_ORIGIN may lack a prefix that a reverse proxy strips.
                "root_path": root_path if path.startswith(f"{root_path}/") else "",
            }
        except ValueError:  # not a URL, or not percent-encoded
            return None
        return target if self.is_content(target) else None


def _lower_case(start: Message) -> Message:
    """Return a start message with header names in lower case, as ASGI requires."""
    headers = [(name.lower(), value) for name, value in start["headers"]]
    return {**start, "headers": headers}


def _is_at_host(url: SplitResult, host: str) -> bool:
    """Return whether `url` is relative or at the request's host; a CDN's is not."""
    if not url.netloc:
        return not url.scheme
    is_same = url.netloc.lower() == host.lower()
    return is_same and url.scheme in ("http", "https")


def _headers_with_id(redirect: Message, scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the request headers with the correlation id that Django has logged."""
    new = [header for header in redirect["headers"] if header[0] == _ID]
    return [header for header in scope["headers"] if not new or header[0] != _ID] + new


def _merged_send(redirect: Message, send: Send) -> Send:
    """Return a `send` that merges headers of `redirect` into the response with the content.

    Access to the URL was decided for this request, by Django, a guard or both. So no shared cache
    may store the response, whatever the redirect's `Cache-Control` is.
    """
    headers = [header for header in redirect["headers"] if header[0] in _MERGED_HEADERS]

    async def send_merged(message: Message) -> None:
        if message["type"] == "http.response.start":
            merged = Headers(raw=[*message["headers"], *redirect["headers"]])
            no_store = any("no-store" in value for value in merged.getlist("cache-control"))
            caching = (b"cache-control", b"no-store" if no_store else b"private, no-cache")
            own = [h for h in message["headers"] if h[0].lower() not in _REPLACED_HEADERS]
            message = {**message, "headers": [*own, *headers, caching]}
        await send(message)

    return send_merged
