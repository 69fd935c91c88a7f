"""The aiohttp bridge: aiohttp responses and exceptions of the hooks of plugins."""

import asyncio
import gzip
import hashlib
import json

import pytest
from aiohttp import web
from pulp_file.app.models import FileDistribution

from pulpcore.responses import ArtifactResponse
from tests.support.asgi import get
from tests.support.orm import artifact


@pytest.fixture
def base(orm) -> str:
    publication = orm.publication({"a.txt": b"published"})
    return "/pulp/content/" + orm.distribution(publication=publication)


@pytest.fixture
def set_answers(monkeypatch):
    """Return a function that has `content_handler` call the given function of each path."""

    def use(**table):
        def content_handler(self, path):
            make = table.get(path)
            return make and make()

        monkeypatch.setattr(FileDistribution, "content_handler", content_handler)

    return use


def raises(error):
    def make():
        raise error

    return make


def test_aiohttp_response_is_sent_with_status_headers_and_cookies(app, base, set_answers):
    def made():
        response = web.Response(
            body=b"made", status=203, headers=[("X-Two", "1"), ("X-Two", "2")], content_type="x/y"
        )
        response.set_cookie("a", "1", httponly=True)
        response.set_cookie("b", "2")
        return response

    set_answers(made=made, json=lambda: web.json_response({"a": ["é"]}))
    response = get(app, f"{base}/made")
    assert (response.status_code, response.content) == (203, b"made")
    assert response.headers.get_list("X-Two") == ["1", "2"]
    assert response.headers["Content-Type"] == "x/y"
    assert response.headers["Content-Length"] == "4"
    cookies = response.headers.get_list("Set-Cookie")
    assert [cookie.split(";")[0] for cookie in cookies] == ["a=1", "b=2"]
    assert "HttpOnly" in cookies[0]
    assert "Transfer-Encoding" not in response.headers
    assert "aiohttp" not in response.headers.get("Server", "")
    response = get(app, f"{base}/json")
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.json() == {"a": ["é"]}
    assert get(app, f"{base}/a.txt").content == b"published", "None: the published file"


def test_aiohttp_response_is_sandboxed_unless_it_has_a_policy(app, base, set_answers):
    policy = "default-src 'self'"
    own = {"Content-Security-Policy": policy}
    set_answers(
        page=lambda: web.Response(text="<script>", content_type="text/html"),
        own=lambda: web.Response(text="<script>", content_type="text/html", headers=own),
        missing=raises(web.HTTPNotFound(text="<script>", content_type="text/html")),
    )
    for path in ("page", "missing"):
        response = get(app, f"{base}/{path}")
        assert response.headers["Content-Security-Policy"].startswith("sandbox allow-downloads;")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert get(app, f"{base}/own").headers["Content-Security-Policy"] == policy


@pytest.mark.parametrize("encoding", ["gzip", "deflate", None])
def test_aiohttp_response_may_be_compressed(app, base, set_answers, encoding):
    text = "compress me " * 1000

    def compressed(**kind):
        response = web.Response(text=text)
        response.enable_compression(**kind)
        return response

    set_answers(accepted=compressed, always=lambda: compressed(force=web.ContentCoding.gzip))
    response = get(app, f"{base}/accepted", {"Accept-Encoding": encoding or "identity"})
    assert response.text == text
    assert response.headers.get("Content-Encoding") == encoding
    if encoding:
        assert int(response.headers["Content-Length"]) < len(text) / 10
    always = get(app, f"{base}/always", {"Accept-Encoding": "identity"})
    assert always.headers["Content-Encoding"] == "gzip"
    assert always.text == text


@pytest.mark.parametrize("how", [raises, lambda error: lambda: error], ids=["raised", "returned"])
def test_aiohttp_exceptions_are_sent_as_responses(app, base, set_answers, how):
    set_answers(
        found=how(web.HTTPFound("/elsewhere?a=b", headers={"X-Why": "moved"})),
        denied=how(web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="x"'})),
        gone=how(web.HTTPGone(text="it is gone", reason="Not Here")),
        nothing=how(web.HTTPNoContent()),
        method=how(web.HTTPMethodNotAllowed("GET", ["PUT"])),
    )
    response = get(app, f"{base}/found")
    assert (response.status_code, response.headers["Location"]) == (302, "/elsewhere?a=b")
    assert response.headers["X-Why"] == "moved"
    response = get(app, f"{base}/denied")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="x"'
    response = get(app, f"{base}/gone")
    assert (response.status_code, response.text) == (410, "it is gone")
    response = get(app, f"{base}/nothing")
    assert (response.status_code, response.content) == (204, b"")
    assert get(app, f"{base}/method").headers["Allow"] == "PUT"


def test_aiohttp_exceptions_of_every_hook_and_guard_are_responses(app, base, orm, monkeypatch):
    from pulpcore.app.models import HeaderContentGuard

    def refuse(self, *args):
        raise web.HTTPConflict(text="refused")

    for hook, path in {
        "content_handler": "x",
        "content_headers_for": "a.txt",
        "content_handler_list_directory": "",
        "get_repository_publication_and_version": "a.txt",
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(FileDistribution, hook, refuse)
            response = get(app, f"{base}/{path}")
            assert response.status_code == 409, hook
            assert response.text == "refused"
    guard = HeaderContentGuard(name=orm.unique(), header_name="x", header_value="y")
    orm._save(guard)
    FileDistribution.objects.filter(base_path=base.rpartition("/")[2]).update(content_guard=guard)
    monkeypatch.setattr(HeaderContentGuard, "permit", refuse)
    assert get(app, f"{base}/a.txt").status_code == 409


def test_content_handler_may_be_a_property(app, base, monkeypatch):
    def content_handler(self):
        return lambda path: web.Response(text=f"{self.base_path} {path}")

    monkeypatch.setattr(FileDistribution, "content_handler", property(content_handler))
    assert get(app, f"{base}/dir/x").text == f"{base.rpartition('/')[2]} dir/x"


def test_guard_denies_before_content_handler_is_called(app, base, orm, set_answers):
    from pulpcore.app.models import HeaderContentGuard

    calls = []
    set_answers(x=lambda: calls.append("x") or web.Response(text="secret"))
    guard = orm._save(
        HeaderContentGuard(name=orm.unique(), header_name="x-key", header_value="open")
    )
    FileDistribution.objects.filter(base_path=base.rpartition("/")[2]).update(content_guard=guard)
    response = get(app, f"{base}/x")
    assert (response.status_code, calls) == (403, [])
    assert get(app, f"{base}/x", {"X-Key": "b3Blbg=="}).text == "secret"


def test_plugin_json_may_be_an_aiohttp_response_or_exception(app, base, monkeypatch):
    def content_handler_json(self, path):
        if path == "bad":
            raise web.HTTPBadRequest(text="bad")
        return web.json_response({"path": path}, headers={"X-From": "plugin"})

    monkeypatch.setattr(
        FileDistribution, "content_handler_json", content_handler_json, raising=False
    )
    response = get(app, f"{base}/a.txt", {"Accept": "application/json"})
    assert response.json() == {"path": "a.txt"}
    assert response.headers["X-From"] == "plugin"
    assert response.headers["Vary"] == "Accept"
    assert get(app, f"{base}/bad", {"Accept": "application/json"}).status_code == 400
    assert get(app, f"{base}/a.txt", {"Accept": "text/html"}).content == b"published"


class Streaming(web.StreamResponse):
    """A response that sends its body in `prepare`."""

    async def prepare(self, request):
        if self.prepared:
            return await super().prepare(request)
        self.headers["X-Path"] = request.match_info["path"]
        self.headers["X-Query"] = request.query["q"]
        writer = await super().prepare(request)
        for part in (b"one ", b"two"):
            await self.write(part)
        return writer


def test_aiohttp_response_with_its_own_prepare_is_run(app, base, set_answers):
    set_answers(stream=Streaming)
    response = get(app, f"{base}/stream?q=%C3%A9")
    assert response.content == b"one two"
    assert response.headers["X-Path"] == "stream"
    assert response.headers["X-Query"] == "é"


DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()


class OwnArtifact(ArtifactResponse):
    """A response as pulp_maven's, which handles conditions itself and the rest by pulpcore."""

    async def prepare(self, request):
        if self.prepared:
            return await web.StreamResponse.prepare(self, request)
        if request.headers.get("X-Condition"):
            self.set_status(412)
            return await web.StreamResponse.prepare(self, request)
        self.headers["X-Own"] = "1"
        return await super().prepare(request)


@pytest.mark.parametrize("kind", ["artifact", "pk", "own", "file", "compressing"])
def test_artifact_and_file_responses_have_conditions_and_ranges(
    app, base, set_answers, kind, instance
):
    stored = artifact(DATA)
    headers = {"Content-Type": "x/y", "X-A": "b", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    path = instance.state.media / stored.file.name
    set_answers(
        artifact=lambda: ArtifactResponse(stored, headers=headers),
        pk=lambda: ArtifactResponse(artifact_pk=stored.pk, headers=headers),
        own=lambda: OwnArtifact(stored, headers=headers),
        file=lambda: web.FileResponse(path, headers=headers),
        compressing=lambda: CookieFileResponse(path, headers=headers),
    )
    url = f"{base}/{kind}"
    response = get(app, url)
    assert response.content == DATA
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert response.headers["Content-Type"] == "x/y"
    assert response.headers["X-A"] == "b"
    assert response.headers["Last-Modified"] == headers["Last-Modified"]
    assert response.headers["Content-Security-Policy"].startswith("sandbox")
    assert f'filename="{kind}"' in response.headers["Content-Disposition"]
    assert get(app, url, {"If-None-Match": f'"{SHA256}"'}).status_code == 304
    partial = get(app, url, {"Range": "bytes=-3"})
    assert (partial.status_code, partial.content) == (206, DATA[-3:])
    several = get(app, url, {"Range": "bytes=0-1,4-5"})
    assert several.headers["Content-Type"].startswith("multipart/byteranges")
    assert get(app, url, {"Range": "bytes=9999-"}).status_code == 416
    if kind == "own":
        assert response.headers["X-Own"] == "1"
        assert get(app, url, {"X-Condition": "1"}).status_code == 412
    if kind == "compressing":
        assert response.headers["Set-Cookie"] == "seen=1; Path=/"


class CookieFileResponse(web.FileResponse):
    """A file with a cookie."""

    async def prepare(self, request):
        self.set_cookie("seen", "1")
        return await super().prepare(request)


def test_file_response_of_a_local_file_is_sent(app, base, set_answers, tmp_path):
    (tmp_path / "help.html").write_text("<p>help")
    (tmp_path / "big.txt").write_text("text " * 1000)

    def compressed():
        response = web.FileResponse(tmp_path / "big.txt")
        response.enable_compression(web.ContentCoding.gzip)
        return response

    set_answers(
        help=lambda: web.FileResponse(tmp_path / "help.html"),
        error=lambda: web.FileResponse(tmp_path / "help.html", status=410),
        gone=lambda: web.FileResponse(tmp_path / "no.html"),
        folder=lambda: web.FileResponse(tmp_path),
        compressed=compressed,
    )
    response = get(app, f"{base}/help")
    assert (response.text, response.headers["Content-Type"]) == ("<p>help", "text/html")
    assert response.headers["Content-Disposition"].startswith("inline")
    assert get(app, f"{base}/help", {"If-None-Match": response.headers["ETag"]}).status_code == 304
    response = get(app, f"{base}/error", {"Range": "bytes=0-1", "If-None-Match": "*"})
    assert (response.status_code, response.text) == (410, "<p>help")
    for path in ("gone", "folder"):
        response = get(app, f"{base}/{path}")
        assert response.status_code == 404
        assert str(tmp_path) not in response.text
    response = get(app, f"{base}/compressed", {"Accept-Encoding": "gzip"})
    assert (response.headers["Content-Encoding"], response.text) == ("gzip", "text " * 1000)


def test_aiohttp_response_that_fails_returns_500_without_its_message(
    app, base, set_answers, caplog
):
    class Broken(web.Response):
        async def prepare(self, request):
            raise LookupError("password=hunter2")

    set_answers(broken=Broken)
    response = get(app, f"{base}/broken")
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert "LookupError" in caplog.text


def test_head_of_aiohttp_response_has_content_length_and_no_body(app, base, set_answers):
    import httpx

    async def head() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            return await client.head(f"{base}/made")

    set_answers(made=lambda: web.Response(body=json.dumps([1]) + gzip.__name__))
    response = asyncio.run(head())
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Length"] == "7"
