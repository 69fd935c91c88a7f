"""Index pages: `index.html` is served for its directory, as from a static web server."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.functional.test_listing_page import GZIP

PAGE = b"<!DOCTYPE html><title>x</title><a href='star_probe-1.0-py3-none-any.whl'>wheel</a>"


def wheel(folder: Path) -> bytes:
    path = folder / "star_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("star_probe.py", "")
        info = "star_probe-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: star-probe\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path.read_bytes()


@pytest.fixture
def static(orm, tmp_path) -> dict[str, str]:
    """Base paths of a static package index, by pass-through publication and by version."""
    version = orm.version(
        {"simple/star-probe/index.html": PAGE, f"simple/star-probe/{NAME}": wheel(tmp_path)}
    )
    return {
        "pass-through": orm.distribution(publication=orm.publication({}, version)),
        "version": orm.distribution(from_publication=False, repository_version=version),
    }


NAME = "star_probe-1.0-py3-none-any.whl"


@pytest.mark.parametrize("kind", ["pass-through", "version"])
def test_index_page_of_a_static_package_index_is_usable_by_pip(instance, static, kind, tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--isolated"]
    url = f"{instance.content_url}{static[kind]}/simple/"
    result = subprocess.run(
        [*command, "--disable-pip-version-check", "-d", tmp_path / "out", "-i", url, "star-probe"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [NAME]


@pytest.mark.parametrize("kind", ["pass-through", "version"])
def test_index_page_is_sandboxed_and_not_compressed(content, static, kind):
    answer = content.get(f"{static[kind]}/simple/star-probe/", headers=GZIP)
    assert answer.content == PAGE
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Security-Policy"].startswith("sandbox")
    assert answer.headers["Content-Disposition"].startswith("inline")
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Last-Modified"]


def test_index_page_of_the_publication_precedes_that_of_the_repository(content, orm):
    version = orm.version({"index.html": b"own"})
    base = orm.distribution(publication=orm.publication({"index.html": b"published"}, version))
    assert content.get(f"{base}/").text == "published"
