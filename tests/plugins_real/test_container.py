"""pulp_container, and skopeo."""

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.parity.test_parity import Row
from tests.plugins_real.differences import ANSWER
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    check_internal_redirect,
    client_of,
    get,
    needs,
    only_pulp_requested,
    reported,
    run,
    serving_mode,
    with_content_type,
)
from tests.support.instance import wait_until
from tests.support.nginx import temporary_folder
from tests.support.orm import Orm
from tests.support.server import serving, serving_theirs
from tests.support.switch import OURS, Front, of

PLUGIN = Plugin(
    "pulp-container",
    client="skopeo: copy in and out, inspect, with tokens; podman: pull; redirects of the"
    " registry's API are served in place",
)
OCI = "application/vnd.oci.image."

pytestmark = needs("skopeo")


def blob(image: Path, data: bytes, kind: str) -> dict[str, object]:
    """Write a blob to the directory of an OCI image, and return its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    (image / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (image / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": OCI + kind, "digest": f"sha256:{digest}", "size": len(data)}


def layer(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture(scope="module")
def image(workshop: Path) -> Path:
    return build_image(workshop / "image", b"hello")


def build_image(image: Path, data: bytes) -> Path:
    """Build the directory of an OCI image with one layer of one file."""
    tar = layer("hello.txt", data)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "layers": [blob(image, gzip.compress(tar, mtime=0), "layer.v1.tar+gzip")],
        "config": blob(image, json.dumps(config).encode(), "config.v1+json"),
    }
    named = blob(image, json.dumps(manifest).encode(), "manifest.v1+json")
    named["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (image / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (image / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return image


def layer_digest(image: Path) -> str:
    index = json.loads((image / "index.json").read_text())
    name = index["manifests"][0]["digest"].removeprefix("sha256:")
    return json.loads((image / "blobs/sha256" / name).read_text())["layers"][0]["digest"]


@pytest.fixture(scope="module")
def content(instance, redirecting, api, image: Path, workshop: Path) -> Iterator[Content]:
    """An image pushed by skopeo to a private repository."""
    name = f"star/{Orm.unique()}"
    credentials = f"{instance.username}:{instance.password}"
    copy = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", credentials]
    run([*copy, f"oci:{image}:1", f"docker://{host(instance.url)}/{name}:1"], workshop)
    found = api.get(f"{api.root}distributions/container/container/?base_path={name}")["results"]
    api.task(api.http.patch(found[0]["pulp_href"], json={"private": True}))
    digest = layer_digest(image)
    signed = httpx.get(
        f"{redirecting.url}/v2/{name}/blobs/{digest}",
        headers=bearer(redirecting.url, instance, name),
    )
    assert signed.status_code == 302, signed.text
    url = urlsplit(signed.headers["location"])
    yield Content(name, {"digest": digest, "signed": f"{url.path}?{url.query}"})
    api.task(api.http.delete(found[0]["pulp_href"]))


def test_skopeo_pushes_in_parallel(instance, api, image: Path, tmp_path):
    """Each blob is an upload, and each manifest an immediate task."""
    credentials = f"{instance.username}:{instance.password}"
    copy = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", credentials]
    names = [f"star/{Orm.unique()}" for _ in range(4)]

    def push(name: str) -> int:
        home = tmp_path / name
        home.mkdir(parents=True)
        target = f"docker://{host(instance.url)}/{name}:1"
        return run([*copy, f"oci:{image}:1", target], home, check=False).returncode

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(push, names)) == [0] * len(names)
    for name in names:
        found = api.get(f"{api.root}distributions/container/container/?base_path={name}")
        api.task(api.http.delete(found["results"][0]["pulp_href"]))


def bearer(origin: str, instance, name: str) -> dict[str, str]:
    """Return the Authorization header with a token to pull one repository."""
    challenge = {"service": host(origin), "scope": f"repository:{name}:pull"}
    auth = (instance.username, instance.password)
    token = get(f"{origin}/token/", params=challenge, auth=auth).json()["token"]
    return {"Authorization": f"Bearer {token}"}


def host(origin: str) -> str:
    return urlsplit(origin).netloc


@pytest.mark.parametrize(
    "row",
    [
        Row("{signed}", "files of plugins"),
        Row("{signed}", "files of plugins", method="HEAD"),
        Row("{signed}", "files of plugins", {"Range": "bytes=0-9"}),
        Row("{signed}0", ANSWER),
        Row("/pulp/container/{base}/blobs/{digest}", ANSWER),
        Row("/pulp/container/nope/blobs/{digest}", ANSWER),
        Row("/pulp/container/{base}/blobs/sha256:00", ANSWER),
        Row("/pulp/container/{base}/nope", ANSWER),
        Row("/pulp/content/{base}/", "error text"),
        Row("/pulp/content/{base}/nope", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


def skopeo(instance, home: Path, *arguments: str | Path) -> str:
    login = f"{instance.username}:{instance.password}"
    return run(["skopeo", *arguments[:1], "--creds", login, *arguments[1:]], home).stdout


def test_skopeo_inspects(instance, content, home):
    where = f"docker://{host(instance.url)}/{content.base_path}:1"
    result = json.loads(skopeo(instance, home, "inspect", "--tls-verify=false", where))
    assert result["Layers"] == [content.values["digest"]]


def test_skopeo_copies_out(origin, instance, content, image, home):
    login = f"{instance.username}:{instance.password}"
    where = f"docker://{host(origin)}/{content.base_path}:1"
    copy = ["skopeo", "copy", "--src-tls-verify=false", "--src-creds", login]
    run([*copy, where, f"oci:{home}/copy:1"], home)
    assert layer_digest(home / "copy") == layer_digest(image)
    name = layer_digest(image).removeprefix("sha256:")
    for folder in (image, home / "copy"):
        assert (folder / "blobs/sha256" / name).exists()


def test_use_page_is_denied_by_the_guard_and_the_index_has_the_command(instance, content):
    browser = {"Accept": "text/html"}
    url = f"{instance.content_url}{content.base_path}/"
    assert get(f"{url}?use", headers=browser).status_code == 403
    assert get(f"{url}?use").text == get(url).text
    index = get(f"{instance.content_url}?q={content.base_path}", headers=browser).text
    assert f"podman pull {host(instance.url)}/{content.base_path}:TAG" in index


def test_image_is_pulled_during_the_switch_and_back(instance, content, image, home):
    """By clients without a pause, while the weights of upstream's content app and ours change."""
    ended, stopped = [], threading.Event()
    digest = layer_digest(image)

    def pull() -> None:
        while not stopped.is_set():
            with tempfile.TemporaryDirectory(dir=home) as folder:
                copied = Path(folder, "copy")
                result = run([*copy, where, f"oci:{copied}:1"], home, check=False)
                is_whole = not result.returncode and layer_digest(copied) == digest
                ended.append("" if is_whole else f"{result.stdout}{result.stderr}")

    def pull_more() -> None:
        """Wait until clients that began after this call have pulled."""
        enough = len(ended) + 8
        wait_until(lambda: len(ended) >= enough or any(ended))
        assert not any(ended)

    with contextlib.ExitStack() as stack:
        front = Front(stack.enter_context(temporary_folder()), "", {})
        origin = f"http://127.0.0.1:{front.port}"
        where = f"docker://{host(origin)}/{content.base_path}:1"
        login = f"{instance.username}:{instance.password}"
        copy = ["skopeo", "copy", "--src-tls-verify=false", "--src-creds", login]
        environ = {"PULP_CONTENT_ORIGIN": origin, "PULP_CONTENT_STAR_INTERNAL_REDIRECT": "false"}
        old = stack.enter_context(serving_theirs(instance, **environ))
        new, api = (stack.enter_context(serving(instance, *OURS, **environ)) for _ in range(2))
        front.api = api.url
        front.servers = {"127.0.0.1:24816": old.url, "127.0.0.1:24818": new.url}
        stack.enter_context(front.running("weight=1", "down"))
        clients = [threading.Thread(target=pull) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            pull_more()
            assert front.served() == of(old)
            for *weights, servers in [
                ("weight=1", "weight=1", of(old, new)),
                ("down", "weight=1", of(new)),
                ("weight=1", "weight=1", of(old, new)),
                ("weight=1", "down", of(old)),
            ]:
                front.shift(*weights)
                pull_more()
                assert front.served() == servers
        finally:
            stopped.set()
            for client in clients:
                client.join()
    assert not any(ended)


@needs("podman")
def test_podman_pulls_by_the_command_of_the_index(instance, content, home):
    own = ["--tls-verify=false", "--creds", f"{instance.username}:{instance.password}"]
    image = f"{host(instance.url)}/{content.base_path}:1"
    with tempfile.TemporaryDirectory() as folder:  # podman refuses a long path of its run root
        storage = ["--root", home / "storage", "--runroot", folder, "--storage-driver", "vfs"]
        run(["podman", *storage, "pull", *own, image], home)
        run(["podman", *storage, "image", "exists", image], home)


def test_skopeo_without_credentials_is_denied(instance, content, home):
    where = f"docker://{host(instance.url)}/{content.base_path}:1"
    refused = run(["skopeo", "inspect", "--tls-verify=false", where], home, check=False)
    assert refused.returncode != 0
    assert "unauthorized" in refused.stderr or "denied" in refused.stderr


def test_skopeo_copies_out_on_demand_layers_of_a_remote(instance, pulp, far, home):
    """Layers that were not synchronized are fetched while the plugin's route sends them."""
    image = build_image(home / "far", Orm.unique().encode())
    (named,) = json.loads((image / "index.json").read_text())["manifests"]
    tags = {"v2/": b"{}", "v2/far/tags/list": b'{"name": "far", "tags": ["1"]}'}
    blobs = {f"sha256:{file.name}": file.read_bytes() for file in image.glob("blobs/sha256/*")}
    far.files = tags | {f"v2/far/blobs/{name}": data for name, data in blobs.items()}
    for name in ("1", named["digest"]):
        far.files[f"v2/far/manifests/{name}"] = blobs[named["digest"]]
        far.behaviours[f"v2/far/manifests/{name}"] = with_content_type(named["mediaType"])
    fields = {"name": Orm.unique(), "url": far.url, "upstream_name": "far", "policy": "on_demand"}
    remote = pulp.create("remotes/container/container/", **fields)["pulp_href"]
    href = pulp.create("repositories/container/container/", name=Orm.unique())["pulp_href"]
    pulp.task(pulp.http.post(f"{href}sync/", json={"remote": remote}))
    fields = {"name": Orm.unique(), "base_path": f"far/{Orm.unique()}", "repository": href}
    base_path = pulp.create("distributions/container/container/", **fields)["base_path"]
    digest = layer_digest(image)
    assert far.gets[f"v2/far/blobs/{digest}"] == 0
    for times in ("first", "second"):
        where = f"docker://{host(instance.url)}/{base_path}:1"
        run(["skopeo", "copy", "--src-tls-verify=false", where, f"oci:{home}/{times}:1"], home)
        assert layer_digest(home / times) == digest
    assert far.gets[f"v2/far/blobs/{digest}"] == 1
    assert only_pulp_requested(far)


def test_internal_redirect_of_the_registry_api(instance, redirecting, content, image):
    """The registry API redirects clients to signed URLs of the plugin's routes."""
    digest = content.values["digest"]
    here, there = (
        client_of(server.url, headers=bearer(server.url, instance, content.base_path))
        for server in (instance, redirecting)
    )
    path = f"/v2/{content.base_path}/blobs/{digest}"
    blob = image / "blobs/sha256" / digest.removeprefix("sha256:")
    assert check_internal_redirect(path, here, there) == blob.read_bytes()
    for server in (instance, redirecting):
        assert client_of(server.url).get(path).status_code == 401


def test_proxy_mode_serves_the_routes_of_the_registry(instance, upstream, proxying, content, image):
    """Requests by clients, and redirects of the registry API to the routes."""
    served, why = reported(instance, proxying, serving_mode("proxy", upstream))["pulp-container"]
    assert served == "proxied"
    assert why.endswith("has pulp_container.app.content; CONTENT_STAR_LEGACY_PLUGINS is 'proxy'")
    routes = [
        Row("{signed}"),
        Row("{signed}", method="HEAD"),
        Row("{signed}", headers={"Range": "bytes=1-9"}),
        Row("{signed}0"),
        Row("/pulp/container/{base}/blobs/{digest}"),
        Row("/pulp/container/{base}/nope"),
    ]
    content.compare_proxied(upstream, proxying.url, *routes)
    headers = bearer(proxying.url, instance, content.base_path)
    path = f"/v2/{content.base_path}/blobs/{content.values['digest']}"
    answer = client_of(proxying.url, headers=headers).get(path)
    assert answer.status_code == 200, answer.text
    blob = image / "blobs/sha256" / content.values["digest"].removeprefix("sha256:")
    assert answer.content == blob.read_bytes()


def test_refuse_mode_refuses_the_routes_of_the_registry(instance, refusing, content):
    served, why = reported(instance, refusing, serving_mode("refuse"))["pulp-container"]
    assert served == "refused"
    headers = bearer(refusing.url, instance, content.base_path)
    for path in (
        f"/v2/{content.base_path}/blobs/{content.values['digest']}",
        content.values["signed"],
    ):
        refused = client_of(refusing.url, headers=headers).get(path)
        assert refused.status_code == 501
        assert why in refused.text
    manifest = client_of(refusing.url, headers=headers).get(f"/v2/{content.base_path}/manifests/1")
    assert manifest.status_code == 200, "stored by the registry API itself"
