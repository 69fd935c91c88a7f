"""Hooks of a distribution that return and raise all kinds of aiohttp responses."""

from aiohttp import web
from pulp_file.app.models import FileContent, FileDistribution, FileRemote

from pulpcore.plugin.models import Artifact, ContentArtifact
from pulpcore.responses import ArtifactResponse


def add_hooks():
    FileDistribution.content_handler = content_handler
    FileDistribution.content_headers_for = content_headers_for
    # pulp_file itself cannot save pull-through content.
    FileRemote.get_remote_artifact_content_type = lambda self, path: FileContent
    FileContent.init_from_artifact_and_relative_path = staticmethod(
        lambda artifact, path: FileContent(relative_path=path, digest=artifact.sha256)
    )
    FileDistribution.content_handler_list_directory = content_handler_list_directory


def content_handler(self, path):
    answer = ANSWERS.get(path) if self.name.startswith("bridged-") else None
    return answer(self) if answer else None


def content_headers_for(self, path):
    return {"X-Plugin": path} if self.name.startswith("bridged-") else {}


def content_handler_list_directory(self, path):
    return {"json", "text"} if self.name.startswith("bridged-") and path == "" else set()


def text(distribution):
    response = web.Response(text="é " * 500, headers=[("X-Two", "1"), ("X-Two", "2")])
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "2", max_age=5)
    return response


def compressed(distribution):
    response = web.json_response({"many": ["words"] * 500})
    response.enable_compression()
    return response


def found(distribution):
    raise web.HTTPFound("https://example.org/a%20b?c=d", headers={"X-Why": "moved"})


def moved(distribution):
    raise web.HTTPMovedPermanently("relative/")


def missing(distribution):
    class Missing(web.HTTPNotFound):
        cacheable = True

    raise Missing(headers={"X-Filtered": "yes"})


def denied(distribution):
    raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="x"'}, text="who?")


def teapot(distribution):
    return web.Response(status=418, reason="Short And Stout", body=b"teapot")


def empty(distribution):
    raise web.HTTPNoContent()


def stored(distribution):
    artifact = Artifact.objects.get(sha256=SHA256)
    return ArtifactResponse(artifact, headers={"Content-Type": "x/y"})


def local(distribution):
    artifact = Artifact.objects.get(sha256=SHA256)
    return web.FileResponse(artifact.file.path, headers={"Content-Type": "x/y", "X-A": "b"})


def content(distribution):
    return (
        ContentArtifact.objects.select_related("artifact").filter(artifact__sha256=SHA256).first()
    )


def stream(distribution):
    return Stream()


class Stream(web.StreamResponse):
    async def prepare(self, request):
        if self.prepared:
            return await super().prepare(request)
        self.content_type = "text/plain"
        writer = await super().prepare(request)
        for _ in range(3):
            await self.write(b"part ")
        return writer


# The digest of b"0123456789", which tests publish.
SHA256 = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"

ANSWERS = {
    "json": lambda distribution: web.json_response({"name": "x", "numbers": [1, 2]}),
    "page": lambda distribution: web.Response(text="<p>page", content_type="text/html"),
}
ANSWERS |= {
    each.__name__: each
    for each in (
        *(text, compressed, found, moved, missing, denied, teapot, empty),
        *(stored, local, content, stream),
    )
}
