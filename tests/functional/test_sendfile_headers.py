"""X-Accel-Redirect with a real nginx, X-Sendfile, and the ASGI extension pathsend."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from pulpcore.content_star.responses.source import CHUNK_SIZE
from tests.support.bridged import installed
from tests.support.instance import Instance, stop, wait_until
from tests.support.server import Server, free_port, running, serving

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx")

# As in docs/storage.md.
LOCATIONS = """
    location / {{
        proxy_pass {pulp};
        proxy_set_header Host $http_host;
    }}
    location /pulp-artifacts/ {{
        internal;
        alias {media}/;
        etag off;
        if_modified_since off;
        add_header ETag $upstream_http_etag;
        add_header Last-Modified $upstream_http_last_modified;
        add_header Content-Security-Policy $upstream_http_content_security_policy;
        add_header X-Content-Type-Options $upstream_http_x_content_type_options;
        add_header Repr-Digest $upstream_http_repr_digest;
        add_header X-PULP-ARTIFACT-SIZE $upstream_http_x_pulp_artifact_size;
        add_header Surrogate-Key $upstream_http_surrogate_key;
        add_header Cache-Tag $upstream_http_cache_tag;
        add_header Vary $upstream_http_vary;
        add_header Correlation-ID $upstream_http_correlation_id;
    }}
"""

CONFIGURATION = """
daemon off;
worker_processes 1;
user {user};
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    default_type application/x-wrong;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""

BIG = os.urandom(CHUNK_SIZE * 2 + 77)
NAME = "sp ace/é%41#?.bin"
FILES = {"a.txt": b"0123456789", NAME: b"odd name", "big": BIG, "empty": b""}


@dataclass
class ProxiedContent:
    """The same content through nginx, and from a server without X-Accel-Redirect."""

    through: httpx.Client
    direct: httpx.Client
    behind: httpx.Client
    """The server behind nginx, which sends X-Accel-Redirect."""

    base: str


@pytest.fixture(scope="module")
def base(module_orm) -> str:
    return module_orm.distribution(publication=module_orm.publication(FILES))


@pytest.fixture(scope="module")
def proxied(instance: Instance, base: str, tmp_path_factory) -> Iterator[ProxiedContent]:
    folder = tmp_path_factory.mktemp("nginx")
    media = instance.environ["PULP_MEDIA_ROOT"]
    with serving(instance, PULP_CONTENT_STAR_SENDFILE="/pulp-artifacts/") as server:
        port = free_port()
        locations = LOCATIONS.format(pulp=server.url, media=media)
        user = Path(media).owner()
        text = CONFIGURATION.format(folder=folder, port=port, locations=locations, user=user)
        (folder / "nginx.conf").write_text(text)
        command = [str(NGINX), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        process = subprocess.Popen(command, start_new_session=True)
        url = f"http://127.0.0.1:{port}/pulp/content/"
        try:
            wait_until(lambda: _answers(url), explain=lambda: (folder / "error.log").read_text())
            with (
                httpx.Client(base_url=url) as through,
                httpx.Client(base_url=instance.content_url) as direct,
                httpx.Client(base_url=server.content_url) as behind,
            ):
                yield ProxiedContent(through, direct, behind, base)
        finally:
            stop(process)


def _answers(url: str) -> bool:
    try:
        return httpx.options(url).status_code == 200
    except httpx.TransportError:
        return False


# Headers that differ by server and request.
VOLATILE = {"server", "date", "connection", "correlation-id"}


def headers_of(response: httpx.Response) -> dict[str, str]:
    own = (
        VOLATILE | {"accept-ranges"} if response.status_code == 206 else VOLATILE
    )  # nginx omits it
    return {name: value for name, value in response.headers.items() if name not in own}


REQUESTS = [
    ("GET", {}),
    ("HEAD", {}),
    ("GET", {"Range": "bytes=2-4"}),
    ("GET", {"Range": "bytes=-3"}),
    ("GET", {"Range": "bytes=2-4", "If-Range": "{etag}"}),
    ("GET", {"Range": "bytes=2-4", "If-Range": '"other"'}),
    ("GET", {"If-None-Match": "{etag}"}),
    ("GET", {"If-None-Match": '"other"'}),
    ("GET", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}),
    ("GET", {"If-Modified-Since": "Fri, 01 Jan 2010 00:00:00 GMT"}),
    ("GET", {"If-Match": "{etag}"}),
    ("GET", {"If-Match": '"other"'}),
    ("GET", {"If-Unmodified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}),
]


@needs_nginx
@pytest.mark.parametrize("name", ["a.txt", "big", NAME])
@pytest.mark.parametrize(("method", "headers"), REQUESTS, ids=str)
def test_x_accel_redirect_response_equals_the_direct_one(proxied, name, method, headers):
    url = quote(f"{proxied.base}/{name}")
    etag = proxied.direct.head(url).headers["ETag"]
    headers = {key: value.format(etag=etag) for key, value in headers.items()}
    ours = proxied.direct.request(method, url, headers=headers)
    theirs = proxied.through.request(method, url, headers=headers)
    assert theirs.status_code == ours.status_code
    assert theirs.content == ours.content
    assert headers_of(theirs) == headers_of(ours)


@needs_nginx
def test_x_accel_redirect_of_empty_and_missing_files(proxied, module_orm):
    from pulpcore.app.models import PublishedArtifact

    assert proxied.through.get(f"{proxied.base}/empty").content == b""
    base = module_orm.distribution(publication=module_orm.publication({"x": b"to be lost"}))
    published = PublishedArtifact.objects.get(
        publication__distribution__base_path=base, relative_path="x"
    )
    Path(published.content_artifact.artifact.file.path).unlink()
    answer = proxied.through.get(f"{base}/x")
    assert answer.status_code == 404
    assert "missing" in answer.text


@needs_nginx
def test_x_accel_redirect_does_not_bypass_the_guard(proxied, module_orm):
    from pulpcore.app.models import HeaderContentGuard

    guard = module_orm.guard(HeaderContentGuard, header_name="X-Key", header_value="open")
    publication = module_orm.publication({"secret": b"guarded"})
    base = module_orm.distribution(publication=publication, content_guard=guard)
    key = {"X-Key": "b3Blbg=="}
    assert proxied.through.get(f"{base}/secret").status_code == 403
    handed_over = proxied.behind.get(f"{base}/secret", headers=key)
    assert handed_over.content == b""
    location = handed_over.headers["X-Accel-Redirect"]
    assert location.startswith("/pulp-artifacts/artifact/")
    allowed = proxied.through.get(f"{base}/secret", headers=key)
    assert allowed.content == b"guarded"
    assert "X-Accel-Redirect" not in allowed.headers
    assert proxied.through.get(proxied.through.base_url.join(location)).status_code == 404
    denied = proxied.behind.get(f"{base}/secret")
    assert "X-Accel-Redirect" not in denied.headers


def test_x_sendfile_has_the_path_of_the_file(instance, base, tmp_path):
    environ = installed(tmp_path, PULP_CONTENT_STAR_SENDFILE="X-Sendfile")
    with (
        serving(instance, **environ) as server,
        httpx.Client(base_url=server.content_url) as client,
    ):
        for url in (f"{base}/a.txt", f"/pulp/bridged/files/{base}/a.txt"):
            handed_over = client.get(client.base_url.join(url))
            assert handed_over.content == b""
            assert Path(handed_over.headers["X-Sendfile"]).read_bytes() == FILES["a.txt"]
            assert handed_over.headers["X-Content-Type-Options"] == "nosniff"
        assert client.get(f"{base}/").text.startswith("<!DOCTYPE html>"), (
            "a listing is sent by the server itself"
        )
        whole = client.head(f"{base}/a.txt")
        assert whole.headers["Content-Length"] == "10"


@pytest.fixture(scope="module")
def granian(instance: Instance) -> Iterator[Server]:
    """A server that offers `http.response.pathsend`."""
    port = free_port()
    command = [
        "granian",
        "--interface",
        "asgi",
        "--port",
        str(port),
        "pulpcore.routing:application",
    ]
    log = '{"loggers": {"pulpcore.content_star.access": {"level": "INFO"}}, "dynaconf_merge": true}'
    environ = {"PULP_LOGGING": f"@json {log}"}
    with running(instance, command, f"http://127.0.0.1:{port}", **environ) as server:
        yield server


@pytest.mark.parametrize("name", ["a.txt", "big", NAME, "empty"])
@pytest.mark.parametrize(
    "headers", [{}, {"Range": "bytes=2-4"}, {"Range": "bytes=0-1,4-5"}], ids=str
)
def test_pathsend_response_equals_that_of_uvicorn(granian, instance, base, name, headers):
    def get(root: str) -> httpx.Response:
        return httpx.get(root + quote(f"{base}/{name}"), headers=headers)

    ours, theirs = get(instance.content_url), get(granian.content_url)
    assert theirs.status_code == ours.status_code
    if "multipart" not in ours.headers.get("Content-Type", ""):
        assert theirs.content == ours.content
        assert headers_of(theirs) == headers_of(ours)
    else:
        assert len(theirs.content) == len(ours.content)


def test_access_log_has_the_bytes_of_pathsend(granian, base):
    httpx.get(f"{granian.content_url}{base}/big?counted")
    wait_until(lambda: "big?counted" in granian.said(), explain=granian.said)
    (line,) = [line for line in granian.said().splitlines() if "big?counted" in line]
    assert f" 200 {len(BIG)} " in line
