"""ASGI middleware that adds surrogate keys, `Vary` and `Cache-Control` to responses."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.cache.cdn_headers import add_cdn_headers, cache_header
from pulpcore.content_star.request_info import request_info


class CDNHeaders:
    """ASGI middleware that adds the CDN headers of the request info to the response.

    To every response: a 304 updates a stored response (RFC 9111 section 3.2), and a cached 404 has
    to be purged by its surrogate key when the file is published.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                info = request_info(scope)
                headers = add_cdn_headers(message["headers"], info)
                message["headers"] = headers + cache_header(info, message["status"])
            await send(message)

        await self.app(scope, receive, send_with_headers)
