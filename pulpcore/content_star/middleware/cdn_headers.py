"""ASGI middleware that adds surrogate keys, `Vary` and `Cache-Control` to responses."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.cache.cdn_headers import add_cdn_headers, cache_header
from pulpcore.content_star.request_info import request_info


class CDNHeaders:
    """ASGI middleware that adds what the layers put into the exchange to the answer's headers.

    To every answer: a 304 refreshes what a cache has stored (RFC 9111 section 3.2), and a cached
    404 has to go when there is a file.
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
