"""pulp_npm, and npm."""

import hashlib
import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.differences import ANSWER
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    check_pull_through,
    commands,
    distribute_remote,
    needs,
    only_pulp_requested,
    recipe,
    run,
    upload,
    with_content_type,
)
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-npm",
    client="npm 10: pack, install, also through to a remote, and publish to the API",
    note="npm 11 refuses the plugin's metadata, as it does from `pulpcore-content`",
)

MODULES = Path(sys.executable).parents[1] / "node_modules"
NPM = MODULES / "npm/bin/npm-cli.js"
"""npm 10, in the environment of the plugins."""

pytestmark = needs(str(NPM))


def package(workshop: Path, name: str, version: str) -> Path:
    """Pack a package with npm, which determines the file name."""
    folder = workshop / f"{name.replace('/', '-')}-{version}"
    folder.mkdir(exist_ok=True)
    (folder / "index.js").write_text(f"module.exports = {version!r}\n")
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    return workshop / run([NPM, "pack", folder], workshop).stdout.split()[-1]


@pytest.fixture(scope="module")
def content(api, workshop: Path) -> Iterator[Content]:
    """A repository of three packages, one of them with a scope."""
    repository = api.create("repositories/npm/npm/", name=Orm.unique())["pulp_href"]
    for name, version in (("star", "1.0.0"), ("star", "1.1.0"), ("@star/hello", "1.0.0")):
        file = package(workshop, name, version)
        path = f"{name}/-/{name.split('/')[-1]}-{version}.tgz"
        upload(api, "npm/packages/", file, repository=repository, relative_path=path)
    base_path = api.create(
        "distributions/npm/npm/", name=Orm.unique(), base_path=Orm.unique(), repository=repository
    )["base_path"]
    yield Content(base_path)


@pytest.mark.parametrize(
    "row",
    [
        Row("/pulp/content/{base}/star", ANSWER),
        Row("/pulp/content/{base}/star", ANSWER, method="HEAD"),
        Row("/pulp/content/{base}/@star/hello", ANSWER),
        Row("/pulp/content/{base}/@star%2fhello", ANSWER),
        Row("/pulp/content/{base}/star/-/star-1.0.0.tgz", FILE),
        Row("/pulp/content/{base}/star/-/star-1.0.0.tgz", FILE, method="HEAD"),
        Row("/pulp/content/{base}/@star/hello/-/hello-1.0.0.tgz", FILE),
        Row("/pulp/content/{base}/", "listing page"),
        Row("/pulp/content/{base}/nope", "error text"),
        Row("/pulp/content/{base}/star/-/star-9.0.0.tgz", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


def npm(home: Path, registry: str, *arguments: str) -> str:
    return run([NPM, *arguments, *options(home, registry)], home).stdout


def options(home: Path, registry: str) -> list[str | Path]:
    quiet = ["--no-audit", "--no-fund", "--fetch-retries=0", "--no-update-notifier"]
    return ["--registry", registry, "--cache", home / "cache", *quiet]


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("star/-/star-1.0.0.tgz", "star-1.0.0.tgz"),
        ("@star/hello/-/hello-1.0.0.tgz", "star-hello-1.0.0.tgz"),
    ],
)
def test_npm_packs(instance, content, workshop, home, path, file):
    registry = f"{instance.content_url}{content.base_path}/"
    npm(home, registry, "pack", f"{registry}{path}")
    assert (home / file).read_bytes() == (workshop / file).read_bytes()


def test_npm_installs(instance, content, home):
    """With the metadata that the plugin generates for the request."""
    (home / "package.json").write_text('{"dependencies": {"star": "^1.0.0", "@star/hello": "*"}}')
    npm(home, f"{instance.content_url}{content.base_path}/", "install")
    for name, version in (("star", "1.1.0"), ("@star/hello", "1.0.0")):
        installed = json.loads((home / "node_modules" / name / "package.json").read_text())
        assert installed["version"] == version


def test_npm_installs_by_the_recipe(instance, content, home):
    [command] = commands(recipe(instance, content.base_path, "npm"), PACKAGE="star")
    run([NPM, *command[1:], "--cache", home / "cache", "--no-audit"], home)
    assert (home / "node_modules/star/package.json").exists()
    (home / "own").mkdir()
    (home / "own/package.json").write_text("{}")
    (home / "own/.npmrc").write_text(recipe(instance, content.base_path, ".npmrc"))
    run([NPM, "install", "@star/hello", "--cache", home / "cache", "--no-audit"], home / "own")
    assert (home / "own/node_modules/@star/hello/package.json").exists()


def test_npm_publishes(instance, api, home):
    """To the registry of the API; then npm installs from the content app."""
    repository = api.create("repositories/npm/npm/", name=Orm.unique())["pulp_href"]
    base_path = api.create(
        "distributions/npm/npm/", name=Orm.unique(), base_path=Orm.unique(), repository=repository
    )["base_path"]
    (home / "new").mkdir()
    (home / "new/package.json").write_text('{"name": "star-new", "version": "1.0.0"}')
    registry = f"{instance.url}/npm/{base_path}/"
    credentials = b64encode(f"admin:{instance.password}".encode()).decode()
    (home / ".npmrc").write_text(f"{registry.removeprefix('http:')}:_auth={credentials}\n")
    npm(home, registry, "publish", str(home / "new"))
    npm(home, f"{instance.content_url}{base_path}/", "install", "star-new")
    assert (home / "node_modules/star-new/package.json").exists()


def test_npm_installs_by_pull_through(instance, pulp, far, workshop, home):
    name = "star-far"
    file = package(workshop, name, "1.0.0").read_bytes()
    path = f"{name}/-/{name}-1.0.0.tgz"
    dist = {"tarball": far.url + path, "shasum": hashlib.sha1(file).hexdigest()}
    version = {"name": name, "version": "1.0.0", "dist": dist}
    about = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    far.files = {path: file, name: json.dumps(about).encode()}
    far.behaviours[name] = with_content_type("application/json")
    repository = pulp.create("repositories/npm/npm/", name=Orm.unique())["pulp_href"]
    base_path = distribute_remote(pulp, "npm/npm", "npm/npm", far.url, repository=repository)
    # Links in the remote's metadata point to the remote.
    always = "--replace-registry-host=always"
    npm(home, f"{instance.content_url}{base_path}/", "install", name, always)
    assert (home / "node_modules" / name / "package.json").exists()
    assert far.gets[path] == 1
    assert only_pulp_requested(far)


def test_pull_through_saves_the_same_content_as_upstream(servers, pulp, far, workshop):
    def files(name: str) -> dict[str, bytes]:
        packed = package(workshop, f"star-{name}", "1.0.0").read_bytes()
        return {f"star-{name}/-/star-{name}-1.0.0.tgz": packed}

    check_pull_through(servers, pulp, far, "npm/npm", files, entry=1)


def test_npm_11_needs_version_in_the_metadata(instance, upstream, content, home):
    """The plugin's metadata lack `version`, on both servers."""
    npm = [MODULES / "npm-11/bin/npm-cli.js", "install", "star"]
    for origin in (instance.url, upstream):
        registry = f"{origin}/pulp/content/{content.base_path}/"
        refused = run([*npm, *options(home, registry)], home, check=False)
        assert "missing version" in refused.stderr
