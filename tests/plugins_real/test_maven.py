"""pulp_maven, and mvn."""

import io
import zipfile
from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.differences import ANSWER
from tests.plugins_real.plugin import (
    Content,
    Plugin,
    check_internal_redirect,
    check_pull_through,
    check_use_page_beside_own_page,
    client_of,
    distribute_remote,
    get,
    is_saved,
    needs,
    only_pulp_requested,
    recipe,
    run,
)
from tests.support.instance import wait_until
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-maven",
    client="mvn and Gradle: a parent POM and a JAR, from content, by the deploy API, whose"
    " redirects are served in place, and through to a remote",
    note="The plugin keeps one file of a name in a domain, whichever remote or repository it is of,"
    " as with `pulpcore-content`",
)
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.star</groupId>
  <artifactId>{artifact}</artifactId>
  <version>1.0</version>
  <packaging>{packaging}</packaging>
</project>
"""
PROJECT = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <parent>
    <groupId>org.star</groupId>
    <artifactId>parent</artifactId>
    <version>1.0</version>
    <relativePath/>
  </parent>
  <artifactId>project</artifactId>
  <packaging>pom</packaging>
  <build>
    <extensions>
      <extension>
        <groupId>org.star</groupId>
        <artifactId>hello</artifactId>
        <version>1.0</version>
      </extension>
    </extensions>
  </build>
</project>
"""
GRADLE = """\
configurations { hello }
dependencies { hello "org.star:hello:1.0" }
task copy(type: Copy) { from configurations.hello; into "copied" }
"""
SETTINGS = """\
<settings>
  <mirrors>
    <mirror>
      <id>star</id>
      <url>{url}</url>
      <mirrorOf>*</mirrorOf>
    </mirror>
  </mirrors>
</settings>
"""


def pom(artifact: str, packaging: str) -> bytes:
    return POM.format(artifact=artifact, packaging=packaging).encode()


def jar() -> bytes:
    """Return the same bytes each time: to the plugin, a name and version identify one content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF"), "Manifest-Version: 1.0\n")
    return stream.getvalue()


def deployed_files() -> dict[str, bytes]:
    """Return the files that `mvn deploy` sends, by path."""
    files = {
        "org/star/parent/1.0/parent-1.0.pom": POM.format(
            artifact="parent", packaging="pom"
        ).encode(),
        "org/star/hello/1.0/hello-1.0.pom": POM.format(artifact="hello", packaging="jar").encode(),
        "org/star/hello/1.0/hello-1.0.jar": jar(),
        # Maven requests this one with every extension.
        "org/codehaus/plexus/plexus-utils/1.1/plexus-utils-1.1.jar": jar(),
    }
    sums = {f"{path}.sha1": sha1(data).hexdigest().encode() for path, data in files.items()}
    return files | sums


@pytest.fixture(scope="module")
def content(api) -> Iterator[Content]:
    """A repository into which a JAR and a parent POM were deployed_files."""
    name = Orm.unique()
    repository = api.create("repositories/maven/maven/", name=name)["pulp_href"]
    base_path = api.create(
        "distributions/maven/maven/", name=name, base_path=name, repository=repository
    )["base_path"]
    for path, data in deployed_files().items():
        response = api.http.put(f"/pulp/maven/{name}/{path}", content=data)
        assert response.status_code in (200, 201, 202), response.text
    yield Content(base_path)


JAR = "/pulp/content/{base}/org/star/hello/1.0/hello-1.0.jar"


@pytest.mark.parametrize(
    "row",
    [
        Row(JAR, FILE),
        Row(JAR, FILE, method="HEAD"),
        Row("/pulp/content/{base}/org/star/hello/1.0/hello-1.0.pom", FILE),
        Row("/pulp/content/{base}/org/star/hello/1.0/hello-1.0.jar.sha1", FILE),
        Row("/pulp/content/{base}/org/star/hello/maven-metadata.xml", FILE),
        Row("/pulp/content/{base}/", ANSWER),
        Row("/pulp/content/{base}/", ANSWER, method="HEAD"),
        Row("/pulp/content/{base}/org/star/hello/1.0/", ANSWER),
        Row("/pulp/content/{base}/org/star/hello", ANSWER),
        Row("/pulp/content/{base}/org/star/hello", ANSWER, method="HEAD"),
        Row("/pulp/content/{base}/org/star/hello/1.0", "index.html without a slash"),
        Row("/pulp/content/{base}/org/star/hello/1.0/index.html", FILE),
        Row("/pulp/content/{base}/org/star/nope/1.0/nope-1.0.jar", "error text"),
        Row("/pulp/content/{base}/org/nope/", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


@needs("mvn")
def test_maven_resolves(instance, content, home):
    assert resolve(f"{instance.content_url}{content.base_path}/", home) == jar()


@needs("mvn")
def test_maven_resolves_by_the_recipe(instance, content, home):
    settings = recipe(instance, content.base_path, "Maven: settings.xml")
    assert resolve_with(settings, home) == jar()


@needs("gradle")
def test_gradle_resolves_by_the_recipe(instance, content, home):
    repositories = recipe(instance, content.base_path, "Gradle")
    # Gradle 4, which Debian has, allows HTTP without this property, and does not know it.
    repositories = repositories.replace("        allowInsecureProtocol = true\n", "")
    (home / "build.gradle").write_text(f"{repositories}{GRADLE}")
    run(["gradle", "--no-daemon", "--gradle-user-home", home / "gradle", "copy"], home)
    assert (home / "copied/hello-1.0.jar").read_bytes() == jar()


def test_use_page_beside_own_page_of_the_plugin(instance, content):
    check_use_page_beside_own_page(instance, content.base_path)


@needs("mvn")
def test_maven_resolves_through_the_deploy_api(origin, content, home):
    """The API redirects to content."""
    assert resolve(f"{origin}/pulp/maven/{content.base_path}/", home) == jar()


@needs("mvn")
def test_maven_resolves_by_pull_through(instance, pulp, far, home):
    far.files = deployed_files()
    base_path = distribute_remote(pulp, "maven/maven", "maven/maven", far.url)
    assert resolve(f"{instance.content_url}{base_path}/", home) == jar()
    assert far.gets["org/star/hello/1.0/hello-1.0.jar"] == 1
    assert only_pulp_requested(far)


def test_pull_through_saves_the_same_content_as_upstream(servers, pulp, far):
    def package(name: str) -> dict[str, bytes]:
        file = f"org/far/{name}/1.0/{name}-1.0"
        return {
            f"org/far/{name}/maven-metadata.xml": b"<metadata/>",
            f"{file}.jar": jar(),
            f"{file}.pom": pom(name, "jar"),
            f"{file}.jar.sha1": sha1(jar()).hexdigest().encode(),
        }

    check_pull_through(servers, pulp, far, "maven/maven", package, entry=3)


def test_pull_through_of_one_name_from_two_remotes_serves_one_file(instance, upstream, pulp, far):
    """The plugin identifies a file by its name, regardless of the remote."""
    for number, origin in enumerate((upstream, instance.url)):
        path = f"org/one/name{number}/1.0/name{number}-1.0.jar"
        far.files = {f"first/{path}": b"of the first", f"other/{path}": b"of the other"}
        first, other = (
            distribute_remote(pulp, "maven/maven", "maven/maven", f"{far.url}{name}/")
            for name in ("first", "other")
        )
        url = f"{origin}/pulp/content/{{}}/{path}"
        assert get(url.format(first)).content == b"of the first"
        wait_until(partial(is_saved, first, 1))
        assert get(url.format(other)).content == b"of the other", "the file sent before"
        wait_until(partial(is_saved, other, 1))
        assert get(url.format(other)).content == b"of the first"


def resolve(url: str, home: Path) -> bytes:
    """Resolve a JAR from a mirror, and return it."""
    return resolve_with(SETTINGS.format(url=url), home)


def resolve_with(settings: str, home: Path) -> bytes:
    """Run a Maven build far enough to resolve a JAR, and return that."""
    (home / "pom.xml").write_text(PROJECT)
    (home / "settings.xml").write_text(settings)
    own = f"-Dmaven.repo.local={home}/repository"
    run(["mvn", "-B", "-C", "-s", "settings.xml", own, "validate"], home)
    return (home / "repository/org/star/hello/1.0/hello-1.0.jar").read_bytes()


def test_internal_redirect_of_the_deploy_api(instance, redirecting, content):
    """The deploy API redirects reading clients to content."""
    path = f"/pulp/maven/{content.base_path}/org/star/hello/1.0/hello-1.0."
    here, there = client_of(instance.url), client_of(redirecting.url)
    assert check_internal_redirect(f"{path}pom", here, there) == pom("hello", "jar")
    assert check_internal_redirect(f"{path}jar", here, there) == jar()
