"""A folder served to a worker: exactly the listed files, under names that upstream understands."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urljoin

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulp_file.manifest import Manifest

from pulpcore.content_star.cli.folder import File, Folder, hash_files, scan
from pulpcore.content_star.cli.folder import _unusable_name as unusable_name
from pulpcore.content_star.cli.manifest import manifest, served

NAMES = [
    "plain",
    "a b",
    "com,ma,",
    "%41",
    "x#y",
    "q?",
    "co:lon",
    "<",
    "ü/日本",
    "back\\slash",
    ";=",
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {name}")
    (tmp_path / "empty").touch()
    folder = scan(tmp_path)
    hash_files(folder, lambda number: None)
    return folder


@pytest.fixture
def url(folder: Folder) -> Iterator[str]:
    with served(folder.files.values()) as url:
        yield url


def test_manifest_is_read_by_upstream(folder: Folder, url: str) -> None:
    entries = {entry.relative_path: entry for entry in Manifest.parse(httpx.get(url).text)}

    assert set(entries) == {*NAMES, "empty"}
    for path, file in folder.files.items():
        assert (entries[path].digest, entries[path].size) == (file.sha256, file.size)


@given(st.text(min_size=1).filter(lambda name: "/" not in name and "\0" not in name))
def test_manifest_preserves_every_usable_name(name: str) -> None:
    if unusable_name(name):
        return
    text = manifest([File(Path(name), name, 1, "0" * 64)])
    assert [entry.relative_path for entry in Manifest.parse(text)] == [name]


def test_manifest_server_serves_files_at_upstreams_urls(folder: Folder, url: str) -> None:
    for name, file in folder.files.items():
        assert httpx.get(urljoin(url, quote(name, safe=""))).content == file.path.read_bytes()


def test_manifest_server_returns_404_for_other_paths(
    folder: Folder, url: str, tmp_path: Path
) -> None:
    (tmp_path / "later").write_text("not listed")
    origin = url.split("/", 3)
    for other in ("later", "../etc/passwd", "%2e%2e/x", "/", "/plain"):
        assert httpx.get(urljoin(url, other)).status_code == 404
    assert httpx.get("/".join(origin[:3]) + "/wrong-token/plain").status_code == 404


def test_manifest_server_returns_an_error_for_a_deleted_file(folder: Folder, url: str) -> None:
    folder.files["plain"].path.unlink()
    assert httpx.get(urljoin(url, "plain")).status_code == 410


def test_manifest_server_closes_the_connection_for_a_truncated_file(
    folder: Folder, url: str
) -> None:
    folder.files["plain"].path.write_text("")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(urljoin(url, "plain"))
