"""Flat repositories of Debian packages, with the real apt."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MISSING = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")

CONTROL = """\
Package: star-flat
Version: 1.0
Architecture: all
Maintainer: Star <star@example.org>
Description: a package
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A Debian package without files."""
    control = tmp_path / "package" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(CONTROL)
    path = tmp_path / "star-flat_1.0_all.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", tmp_path / "package", path],
        check=True,
        capture_output=True,
    )
    return path


def apt_get(root: Path, source: str, *command: str) -> str:
    """Run apt-get below `root`, without the machine's configuration, and return its output."""
    for folder in ("state/lists/partial", "cache/archives/partial", "etc/apt/parts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "state/status").touch()
    (root / "sources.list").write_text(source)
    (root / "apt.conf").touch()
    options = {
        "Dir": root,
        "Dir::State": root / "state",
        "Dir::State::Status": root / "state/status",
        "Dir::Cache": root / "cache",
        "Dir::Etc": root / "etc/apt",
        "Dir::Etc::SourceList": root / "sources.list",
        "Dir::Etc::SourceParts": root / "etc/apt/parts",
        "Dir::Etc::Parts": root / "etc/apt/parts",
        "Dir::Bin::methods": "/usr/lib/apt/methods",
        "APT::Sandbox::User": "",
        "Acquire::http::Proxy": "false",
        "Acquire::Retries": 0,
        "APT::Update::Error-Mode": "any",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    done = subprocess.run(
        ["apt-get", *flags, *command],
        cwd=root,
        env={**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("suite", ["./", "sub/"])
def test_apt_updates_and_downloads_from_a_flat_repository(instance, orm, package, tmp_path, suite):
    """apt sends dot segments of the suite: `/flat/./Packages`, `/flat/./star-flat_1.0_all.deb`."""
    data = package.read_bytes()
    packages = (
        f"{CONTROL}Filename: {suite}{package.name}\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
    ).encode()
    release = f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    folder = "flat/" if suite == "./" else f"flat/{suite}"
    files = {"Packages": packages, "Release": release.encode(), package.name: data}
    base = orm.distribution(
        publication=orm.publication({f"{folder}{name}": each for name, each in files.items()})
    )
    source = f"deb [trusted=yes] {instance.content_url}{base}/flat/ {suite}\n"
    root = tmp_path / "root"
    root.mkdir()
    assert f"/{base}/flat {suite}" in apt_get(root, source, "update")
    apt_get(root, source, "download", "star-flat")
    assert (root / package.name).read_bytes() == data
