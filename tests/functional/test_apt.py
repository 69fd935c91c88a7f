"""Repositories of Debian packages, with the real apt and apt-mirror."""

import gzip
import hashlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, running

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


def index_of(package: bytes, path: str) -> bytes:
    """Return an index, `Packages`, of one package."""
    digest = hashlib.sha256(package).hexdigest()
    return f"{CONTROL}Filename: {path}\nSize: {len(package)}\nSHA256: {digest}\n".encode()


def release(**indexes: bytes) -> bytes:
    """Return a `Release` of indexes by path."""
    digests = {path: hashlib.sha256(index).hexdigest() for path, index in indexes.items()}
    lines = (f" {digests[path]} {len(index)} {path}\n" for path, index in indexes.items())
    return f"SHA256:\n{''.join(lines)}".encode()


@pytest.mark.parametrize("suite", ["./", "sub/"])
def test_apt_updates_and_downloads_from_a_flat_repository(instance, orm, package, tmp_path, suite):
    """apt sends dot segments of the suite: `/flat/./Packages`, `/flat/./star-flat_1.0_all.deb`."""
    data = package.read_bytes()
    packages = index_of(data, f"{suite}{package.name}")
    folder = "flat/" if suite == "./" else f"flat/{suite}"
    files = {"Packages": packages, "Release": release(Packages=packages), package.name: data}
    base = orm.distribution(
        publication=orm.publication({f"{folder}{name}": each for name, each in files.items()})
    )
    source = f"deb [trusted=yes] {instance.content_url}{base}/flat/ {suite}\n"
    root = tmp_path / "root"
    root.mkdir()
    assert f"/{base}/flat {suite}" in apt_get(root, source, "update")
    apt_get(root, source, "download", "star-flat")
    assert (root / package.name).read_bytes() == data


@pytest.fixture
def port_80(instance) -> Iterator[Server]:
    """A server on port 80 of a loopback address."""
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    try:
        listener = socket.create_server((host, 80))
    except OSError as error:
        pytest.skip(f"cannot listen on port 80 of {host}: {error.strerror}")
    with listener:
        command = ["uvicorn", "pulpcore.routing:application", "--fd", str(listener.fileno())]
        with running(instance, command, f"http://{host}", [listener.fileno()]) as server:
            yield server


def mirrored(folder: Path, source: str) -> tuple[dict[str, bytes], int]:
    """Run apt-mirror; return its files by path, and how many of them it has downloaded."""
    for name in ("var", "mirror", "skel"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for log in (folder / "var").glob("*-log.*"):
        log.unlink()
    settings = {"base_path": folder, "defaultarch": "all", "run_postmirror": 0, "nthreads": 2}
    lines = [f"set {name} {value}\n" for name, value in settings.items()]
    (folder / "mirror.list").write_text("".join([*lines, source]))
    done = subprocess.run(
        ["apt-mirror", folder / "mirror.list"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    logs = "".join(log.read_text() for log in (folder / "var").glob("*-log.*"))
    files = [path for path in (folder / "mirror").rglob("*") if path.is_file()]
    paths = {str(path.relative_to(folder / "mirror")): path.read_bytes() for path in files}
    return paths, logs.count("saved [")


@pytest.mark.skipif(not shutil.which("apt-mirror"), reason="apt-mirror is not installed")
def test_apt_mirror_copies_index_and_packages(port_80, orm, package, tmp_path):
    """On port 80: it looks for files without the port in the path, with which wget saves them.

    Run again, it downloads nothing that has not changed.
    """
    data, path = package.read_bytes(), f"pool/main/s/star-flat/{package.name}"
    packages = gzip.compress(index_of(data, path))
    files = {
        "dists/star/main/binary-all/Packages.gz": packages,
        "dists/star/Release": release(**{"main/binary-all/Packages.gz": packages}),
        path: data,
    }
    base = orm.distribution(publication=orm.publication(files))
    url = f"{port_80.content_url}{base}"
    source = f"deb {url} star main\n"
    unpacked = {"dists/star/main/binary-all/Packages": gzip.decompress(packages)}
    host_and_path = url.removeprefix("http://")
    expected = {f"{host_and_path}/{name}": each for name, each in {**files, **unpacked}.items()}
    assert mirrored(tmp_path / "mirror", source) == (expected, len(files))
    assert mirrored(tmp_path / "mirror", source) == (expected, 0)
