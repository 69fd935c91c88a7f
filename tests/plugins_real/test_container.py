"""pulp_container, and skopeo."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.orm import Orm
from tests.parity.test_parity import Row
from tests.plugins_real.differences import ANSWER
from tests.plugins_real.plugin import Content, Plugin, get, needs, run

PLUGIN = Plugin(
    "pulp-container",
    client="skopeo: copy in and out, inspect, with tokens; the registry's API redirects to content",
)
OCI = "application/vnd.oci.image."

pytestmark = needs("skopeo")


def blob(image: Path, data: bytes, kind: str) -> dict[str, object]:
    """Put a blob into an OCI image's directory, and return its descriptor."""
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
    """The directory of an OCI image of one layer."""
    image = workshop / "image"
    tar = layer("hello.txt", b"hello")
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
def content(instance, api, image: Path, workshop: Path) -> Iterator[Content]:
    """An image that skopeo has pushed, to a private repository."""
    name = f"star/{Orm.unique()}"
    credentials = f"{instance.username}:{instance.password}"
    copy = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", credentials]
    run([*copy, f"oci:{image}:1", f"docker://{host(instance)}/{name}:1"], workshop)
    found = api.get(f"{api.root}distributions/container/container/?base_path={name}")["results"]
    api.task(api.http.patch(found[0]["pulp_href"], json={"private": True}))
    digest = layer_digest(image)
    signed = httpx.get(
        f"{instance.url}/v2/{name}/blobs/{digest}",
        headers={"Authorization": f"Bearer {token(instance, name)}"},
        trust_env=False,
    )
    assert signed.status_code in (200, 302), signed.text
    url = urlsplit(signed.headers.get("location", ""))
    yield Content(name, {"digest": digest, "signed": f"{url.path}?{url.query}"})
    api.task(api.http.delete(found[0]["pulp_href"]))


def token(instance, name: str) -> str:
    challenge = {"service": urlsplit(instance.url).netloc, "scope": f"repository:{name}:pull"}
    answer = get(
        f"{instance.url}/token/", params=challenge, auth=(instance.username, instance.password)
    )
    return answer.json()["token"]


def host(instance) -> str:
    return urlsplit(instance.url).netloc


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
    where = f"docker://{host(instance)}/{content.base_path}:1"
    told = json.loads(skopeo(instance, home, "inspect", "--tls-verify=false", where))
    assert told["Layers"] == [content.places["digest"]]


def test_skopeo_copies_out(instance, content, image, home):
    login = f"{instance.username}:{instance.password}"
    where = f"docker://{host(instance)}/{content.base_path}:1"
    copy = ["skopeo", "copy", "--src-tls-verify=false", "--src-creds", login]
    run([*copy, where, f"oci:{home}/copy:1"], home)
    assert layer_digest(home / "copy") == layer_digest(image)
    name = layer_digest(image).removeprefix("sha256:")
    for folder in (image, home / "copy"):
        assert (folder / "blobs/sha256" / name).exists()


def test_strangers_get_nothing(instance, content, home):
    where = f"docker://{host(instance)}/{content.base_path}:1"
    refused = run(["skopeo", "inspect", "--tls-verify=false", where], home, check=False)
    assert refused.returncode != 0
    assert "unauthorized" in refused.stderr or "denied" in refused.stderr
