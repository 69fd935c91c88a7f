"""pulp_gem, and gem."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.differences import INDEX
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    check_pull_through,
    check_use_page_beside_own_page,
    commands,
    distribute_remote,
    needs,
    only_pulp_requested,
    recipe,
    run,
    upload,
)
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-gem",
    client="gem: install by the compact index, also through to a remote",
    note="`gem fetch` refuses the plugin's `specs.4.8`, as it does from `pulpcore-content`",
)
SPEC = """\
Gem::Specification.new do |spec|
  spec.name = "star-{name}"
  spec.version = "1.0.0"
  spec.summary = "A gem of the tests"
  spec.authors = ["Somebody"]
  spec.homepage = "https://example.org"
  spec.license = "MIT"
  spec.files = ["hello.rb"]
  spec.require_paths = ["."]
end
"""

MARSHAL = "File.binwrite ARGV[1], Zlib.deflate(Marshal.dump(Gem::Specification.load(ARGV[0])))"

pytestmark = needs("gem")


@pytest.fixture(scope="module")
def gem(workshop: Path) -> Path:
    return build(workshop, "hello")


def build(workshop: Path, name: str) -> Path:
    (workshop / f"{name}.gemspec").write_text(SPEC.format(name=name))
    (workshop / "hello.rb").write_text("puts 'hello'\n")
    run(["gem", "build", f"{name}.gemspec"], workshop)
    return workshop / f"star-{name}-1.0.0.gem"


@pytest.fixture(scope="module")
def content(api, gem: Path) -> Iterator[Content]:
    """A repository of one gem."""
    repository = api.create("repositories/gem/gem/", name=Orm.unique())["pulp_href"]
    upload(api, "gem/gem/", gem, repository=repository)
    api.create("publications/gem/gem/", repository=repository)
    base_path = api.create(
        "distributions/gem/gem/", name=Orm.unique(), base_path=Orm.unique(), repository=repository
    )["base_path"]
    yield Content(base_path)


@pytest.mark.parametrize(
    "row",
    [
        Row("/pulp/content/{base}/gems/star-hello-1.0.0.gem", FILE),
        Row("/pulp/content/{base}/gems/star-hello-1.0.0.gem", FILE, method="HEAD"),
        Row("/pulp/content/{base}/quick/Marshal.4.8/star-hello-1.0.0.gemspec.rz", FILE),
        Row("/pulp/content/{base}/specs.4.8", FILE),
        Row("/pulp/content/{base}/specs.4.8.gz", FILE),
        Row("/pulp/content/{base}/latest_specs.4.8.gz", FILE),
        Row("/pulp/content/{base}/versions", FILE),
        Row("/pulp/content/{base}/names", FILE),
        Row("/pulp/content/{base}/info/star-hello", FILE),
        Row("/pulp/content/{base}/info/star-hello", FILE, {"Range": "bytes=2-"}),
        Row("/pulp/content/{base}/", INDEX),
        Row("/pulp/content/{base}/info/", INDEX),
        Row("/pulp/content/{base}/info/nope", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


def test_gem_installs(instance, content, gem, home):
    where = ["--no-document", "-i", home / "gems", *source(instance.url, content)]
    run(["gem", "install", "star-hello", *where], home)
    assert (home / "gems/gems/star-hello-1.0.0/hello.rb").exists()
    assert (home / "gems/cache" / gem.name).read_bytes() == gem.read_bytes()


def test_gem_installs_by_the_recipe(instance, content, gem, home):
    [command] = commands(recipe(instance, content.base_path, "gem"), NAME="star-hello")
    run([*command, "--no-document", "-i", home / "gems"], home)
    assert (home / "gems/cache" / gem.name).read_bytes() == gem.read_bytes()


def test_use_page_beside_own_page_of_the_plugin(instance, content):
    check_use_page_beside_own_page(instance, content.base_path)


def test_gem_installs_by_pull_through(instance, pulp, far, workshop, home):
    gem = build(workshop, "far").read_bytes()
    run(["ruby", "-rzlib", "-e", MARSHAL, "far.gemspec", "spec"], workshop)
    info = f"---\n1.0.0 |checksum:{hashlib.sha256(gem).hexdigest()}\n".encode()
    line = f"star-far 1.0.0 {hashlib.md5(info).hexdigest()}"
    far.files = {
        "": b"gem asks for this page first",
        "versions": f"created_at: 2026-01-01T00:00:00Z\n---\n{line}\n".encode(),
        "names": b"---\nstar-far\n",
        "info/star-far": info,
        "gems/star-far-1.0.0.gem": gem,
        "quick/Marshal.4.8/star-far-1.0.0.gemspec.rz": (workshop / "spec").read_bytes(),
    }
    base_path = distribute_remote(pulp, "gem/gem", "gem/gem", far.url)
    where = ["--no-document", "-i", home / "gems", *source(instance.url, Content(base_path))]
    run(["gem", "install", "star-far", *where], home)
    assert (home / "gems/cache/star-far-1.0.0.gem").read_bytes() == gem
    assert far.gets["gems/star-far-1.0.0.gem"] == 1
    assert only_pulp_requested(far)


def test_pull_through_saves_the_same_content_as_upstream(servers, pulp, far, workshop):
    def package(name: str) -> dict[str, bytes]:
        gem = build(workshop, name).read_bytes()
        return {
            "versions": b"---\n",
            f"gems/star-{name}-1.0.0.gem": gem,
            f"quick/Marshal.4.8/star-{name}-1.0.0.gemspec.rz": b"of " + name.encode(),
        }

    check_pull_through(servers, pulp, far, "gem/gem", package, entry=2)


def test_gem_cannot_read_the_old_index_format_of_the_plugin(instance, upstream, content, home):
    """The plugin's `specs.4.8` has versions that are not `Gem::Version`, on both servers."""
    for origin in (instance.url, upstream):
        fetched = run(["gem", "fetch", "star-hello", *source(origin, content)], home, check=False)
        assert "Invalid spec cache file" in fetched.stderr


def source(origin: str, content: Content) -> list[str]:
    return ["--clear-sources", "--source", f"{origin}/pulp/content/{content.base_path}/"]
