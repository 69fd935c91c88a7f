"""Redirects from the API's side to content, served in the same exchange instead."""

from collections.abc import Callable
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from django_guid.config import settings
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REDIRECTS = frozenset({301, 302, 303, 307, 308})

_DOTS = frozenset({".", ".."})

# What Django said for the URL that the client asked for; and what neither says for both.
_OF_THE_REDIRECT = frozenset({b"set-cookie", b"vary"})
_OF_ONE_ALONE = frozenset({b"cache-control", b"expires"})

_ID = settings.guid_header_name.lower().encode()


class InternalRedirect:
    """ASGI middleware around Django that serves what it redirects to, where this process can.

    A plugin's API sends clients to content (pulp_container its blobs, pulp_npm its tarballs); with
    both in one process, the second request is spared. Guards run as they would for it. Only GET and
    HEAD, and one step: where content sends clients elsewhere, they go there themselves, so there
    is no loop and no `Authorization` of theirs goes to an object storage.

    Directories are left to the client: the links in their pages are relative to their own URL.
    """

    def __init__(self, app: ASGIApp, content: ASGIApp, is_content: Callable[[Scope], bool]) -> None:
        """`is_content` tells whether `content` serves the path of a scope."""
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
                redirect = _in_lower_case(message)
                target = self._target(scope, redirect)
            if target is None:
                await send(message)

        await self.app(scope, receive, watched_send)
        if redirect is not None and target is not None:
            await self.content(target, receive, _as_answer_to(redirect, send))

    def _target(self, scope: Scope, redirect: Message) -> Scope | None:
        """Return the scope of what the client is sent to, or None where that is not ours."""
        request, answer = Headers(scope=scope), Headers(raw=redirect["headers"])
        raw_path = scope.get("raw_path") or scope["path"].encode()
        try:
            url = urlsplit(urljoin(raw_path.decode("latin-1"), answer.get("location", "")))
            if not url.path or url.path.endswith("/") or not _is_at(url, request.get("host", "")):
                return None
            path = unquote_to_bytes(url.path).decode("utf-8", "surrogateescape")
            if _DOTS & set(path.split("/")):  # a client would go somewhere else
                return None
            root_path = scope.get("root_path", "")
            target = {
                **scope,
                "headers": _with_id_of(redirect, scope),
                "path": path,
                "raw_path": url.path.encode("ascii"),
                "query_string": url.query.encode("ascii"),
                # CONTENT_ORIGIN may leave out what a proxy has cut off.
                "root_path": root_path if path.startswith(f"{root_path}/") else "",
            }
        except ValueError:  # not a URL, or not percent-encoded
            return None
        return target if self.is_content(target) else None


def _in_lower_case(start: Message) -> Message:
    """Return a response's start with names of headers as ASGI wants them, and Django does not."""
    headers = [(name.lower(), value) for name, value in start["headers"]]
    return {**start, "headers": headers}


def _is_at(url: SplitResult, host: str) -> bool:
    """Tell whether `url` is at the host that the client talks to. A CDN's is not: it goes there."""
    if not url.netloc:
        return not url.scheme
    same = url.netloc.lower() == host.lower()
    return same and url.scheme in ("http", "https")


def _with_id_of(redirect: Message, scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request with the correlation id that Django has logged it by."""
    made = [header for header in redirect["headers"] if header[0] == _ID]
    return [header for header in scope["headers"] if not made or header[0] != _ID] + made


def _as_answer_to(redirect: Message, send: Send) -> Send:
    """Send content as the answer to a URL for which Django said `redirect`.

    Who may follow that URL, and to where, was decided for this one request, by Django, by a guard
    or by both. So no shared cache may keep what came of it, whatever Django said of the redirect.
    """
    headers = [header for header in redirect["headers"] if header[0] in _OF_THE_REDIRECT]

    async def send_merged(message: Message) -> None:
        if message["type"] == "http.response.start":
            said = Headers(raw=[*message["headers"], *redirect["headers"]])
            secret = any("no-store" in value for value in said.getlist("cache-control"))
            caching = (b"cache-control", b"no-store" if secret else b"private, no-cache")
            entry = [h for h in message["headers"] if h[0].lower() not in _OF_ONE_ALONE]
            message = {**message, "headers": [*entry, *headers, caching]}
        await send(message)

    return send_merged
