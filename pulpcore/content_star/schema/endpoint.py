"""ASGI middleware that serves the OpenAPI document and its documentation below the content prefix.

Content has precedence: these are only served where no distribution (or, with domains, no domain)
answers the path. A distribution with the base path `docs` or `openapi.json` stays reachable, and
hides the documentation or the document.
"""

import asyncio
from collections.abc import Awaitable

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.request_info import request_info
from pulpcore.content_star.resolve.redirect import redirect_with_slash
from pulpcore.content_star.schema.document import encoded, openapi_document
from pulpcore.content_star.schema.pages import docs_page, docs_response, document_response
from pulpcore.content_star.views import READ_METHODS


class Schema:
    """ASGI middleware that serves the document where `app` has no content.

    The document is made for the first request, in a thread, and cached: what it depends on does not
    change while the process runs.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """`prefix` of the content app begins and ends with a slash."""
        self.app = app
        self.media_types = {
            f"{prefix}openapi.json": "application/json",
            f"{prefix}openapi.yaml": "application/yaml",
            f"{prefix}docs": "",
            f"{prefix}docs/": "text/html",
        }
        self.endings = tuple(self.media_types)
        self._documents: dict[str, asyncio.Task[dict[str, bytes]]] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not a coroutine function: that would delay every other request.
        is_read = scope["type"] == "http" and scope["path"].endswith(self.endings)
        return (self._serve if is_read else self.app)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        root_path = scope.get("root_path", "")
        media_type = self.media_types.get(scope["path"].removeprefix(root_path))
        if media_type is None or scope["method"] not in READ_METHODS:
            return await self.app(scope, receive, send)
        try:
            return await self.app(scope, receive, send)
        except HTTPException as error:
            if error.status_code != 404 or request_info(scope).pulp_type is not None:
                raise
        request_info(scope).route = "schema"
        response = await self._response(Request(scope), root_path, media_type)
        await response(scope, receive, send)

    async def _response(self, request: Request, root_path: str, media_type: str) -> ASGIApp:
        if not media_type:
            return redirect_with_slash(request)
        body = (await self._bodies(root_path))[media_type]
        respond = docs_response if media_type == "text/html" else document_response
        return respond(request, body=body, media_type=media_type)

    async def _bodies(self, root_path: str) -> dict[str, bytes]:
        """Return the document and its documentation; concurrent requests wait for one thread."""
        made = self._documents.get(root_path)
        if made is None or (made.done() and made.exception()):
            made = self._documents[root_path] = asyncio.create_task(_make(root_path))
        return await asyncio.shield(made)


async def _make(root_path: str) -> dict[str, bytes]:
    return await to_thread.run_sync(_make_bodies, root_path)


def _make_bodies(root_path: str) -> dict[str, bytes]:
    """Return the bodies of all forms by media type."""
    forms = encoded(openapi_document(root_path))
    return forms | {"text/html": docs_page(forms["application/json"])}
