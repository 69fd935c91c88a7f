"""What content-star serves below our distributions: files, and routes at `api/`."""

import hashlib
from collections.abc import Iterable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from pulp_example.app.models import ExampleDistribution, Note
from pulpcore.content_star.plugin import (
    RepositoryVersionApp,
    Route,
    executor_of,
    require_user,
    resolved_path_of,
    serves,
)

MAX_NOTE_BYTES = 10_000


def files(request: Request) -> Response:
    """`GET api/files`. Not a coroutine, so it runs in a thread and may use the database."""
    return JSONResponse({"files": resolved_path_of(request).distribution.files()})


def read_note(request: Request) -> Response:
    """`GET api/notes/<path>`."""
    return PlainTextResponse(_note(request).text)


def delete_note(request: Request) -> Response:
    """`DELETE api/notes/<path>`."""
    _require_editor(request)
    _note(request).delete()
    return Response(status_code=204)


async def write_note(request: Request) -> Response:
    """`PUT api/notes/<path>`. A coroutine, since the body comes from the network."""
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > MAX_NOTE_BYTES:
            raise HTTPException(413, f"A note has at most {MAX_NOTE_BYTES} bytes.")
    return await executor_of(request).run_once(_save, request, text.decode(errors="replace"))


async def sha256(request: Request) -> Response:
    """`POST api/sha256`: a body of any size, of which no more than a chunk is in memory."""
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
    return PlainTextResponse(digest.hexdigest())


def _save(request: Request, text: str) -> Response:
    user = _require_editor(request)
    _, is_new = Note.objects.update_or_create(
        distribution=resolved_path_of(request).distribution,
        path=request.path_params["path"],
        defaults={"text": text, "author": user},
    )
    return Response(status_code=201 if is_new else 204)


def _note(request: Request) -> Note:
    place = resolved_path_of(request)
    # Note.DoesNotExist, like Django's other exceptions of the kind, becomes a 404.
    return Note.objects.get(distribution=place.distribution, path=request.path_params["path"])


def _require_editor(request: Request) -> object:
    user, change = require_user(request), "example.change_exampledistribution"
    if not (user.has_perm(change) or user.has_perm(change, resolved_path_of(request).distribution)):
        raise HTTPException(403, "You may not write notes here.")
    return user


@serves(ExampleDistribution)
class ExampleApp(RepositoryVersionApp):
    """Files of the repository version, a listing with usage instructions, and the API."""

    routes = (
        Route("/api/files", files),
        Route("/api/notes/{path:path}", read_note),
        Route("/api/notes/{path:path}", write_note, methods=["PUT"]),
        Route("/api/notes/{path:path}", delete_note, methods=["DELETE"]),
        Route("/api/sha256", sha256, methods=["POST"]),
    )

    def find_content(self, path: str) -> None:
        """Return None: a route serves the path of the model's `content_handler`."""

    def extra_headers(self, path: str) -> Mapping[str, str]:
        """Name distribution and user agent; the model's hook has no request to read it from."""
        agent = self.request.headers.get("user-agent", "nobody")
        return {"X-Example": self.distribution.name, "X-Example-For": agent.split("/")[0]}

    def extra_entries(self, path: str) -> Iterable[str]:
        return {"": ["api/"], "api/": ["files"]}.get(path, [])

    def usage(self) -> str:
        return f"curl {self.root_url}api/files"
