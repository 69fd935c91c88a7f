"""What content-star serves below our distributions: files, and routes at `api/`."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, TypedDict

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


# The schema of `write_note`, in the words of OpenAPI: the types of bodies are not in its signature.
WRITE_NOTE = {
    "requestBody": {
        "required": True,
        "content": {"text/plain": {"schema": {"type": "string", "maxLength": MAX_NOTE_BYTES}}},
    },
    "responses": {"201": {"description": "Written."}, "204": {"description": "Replaced."}},
}


class File(TypedDict):
    """A file of the repository."""

    relative_path: str
    artifact__sha256: str
    artifact__size: int


class Files(TypedDict):
    """The files of a distribution."""

    files: list[File]


# Not a coroutine, so it runs in a thread and may use the database.
def files(request: Request) -> Annotated[JSONResponse, Files]:
    """List the files of the repository."""
    return JSONResponse({"files": resolved_path_of(request).distribution.files()})


def read_note(request: Request) -> PlainTextResponse:
    """Get the note on a file."""
    return PlainTextResponse(_note(request).text)


def delete_note(request: Request) -> Response:
    """Delete the note on a file."""
    _require_editor(request)
    _note(request).delete()
    return Response(status_code=204)


# A coroutine, since the body comes from the network.
async def write_note(request: Request) -> Response:
    """Write a note on a file, or replace it.

    Users need the permission to change the distribution.
    """
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > MAX_NOTE_BYTES:
            raise HTTPException(413, f"A note has at most {MAX_NOTE_BYTES} bytes.")
    return await executor_of(request).run_once(_save, request, text.decode(errors="replace"))


# A body of any size, of which no more than a chunk is in memory.
async def sha256(request: Request) -> PlainTextResponse:
    """Return the sha256 of the body."""
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
        Route("/api/notes/{path:path}", write_note, methods=["PUT"], openapi=WRITE_NOTE),
        Route(
            "/api/notes/{path:path}",
            delete_note,
            methods=["DELETE"],
            openapi={"responses": {"204": {"description": "Deleted."}}},
        ),
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
