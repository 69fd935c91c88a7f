"""pulp_python, and pip."""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_parity import FILE, Row
from tests.plugins_real.differences import ANSWER, INDEX
from tests.plugins_real.plugin import (
    CLIENTS,
    Content,
    Plugin,
    check_pull_through,
    commands,
    distribute_remote,
    get,
    needs_client,
    only_pulp_requested,
    recipe,
    reported,
    run,
    serving_mode,
    upload,
    with_content_type,
)
from tests.support.instance import wait_until
from tests.support.orm import Orm

PLUGIN = Plugin(
    "pulp-python",
    client="pip: download by the API's index, by the published one, and through to a remote;"
    " uv: install; twine: upload",
)
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Of the tests\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(workshop: Path, version: str, name: str = "star_hello") -> Path:
    path = workshop / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", METADATA.format(name=name, version=version))
        archive.writestr(f"{info}/WHEEL", WHEEL)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def content(api, workshop: Path) -> Iterator[Content]:
    """A published repository with two versions of a package, and an unpublished one."""
    repository, unpublished = (
        api.create("repositories/python/python/", name=Orm.unique())["pulp_href"] for _ in range(2)
    )
    for version in ("1.0", "2.0"):
        file = wheel(workshop, version)
        named = {"relative_path": file.name}
        made = upload(api, "python/packages/", file, repository=repository, **named)
        units = [href for href in made["created_resources"] if "/content/" in href]
        modify = {"add_content_units": units}
        api.task(api.http.post(f"{unpublished}modify/", json=modify))
    publication = api.create("publications/python/pypi/", repository=repository)
    base_path = api.create(
        "distributions/python/pypi/",
        name=Orm.unique(),
        base_path=Orm.unique(),
        publication=publication["pulp_href"],
    )["base_path"]
    unpublished = api.create(
        "distributions/python/pypi/",
        name=Orm.unique(),
        base_path=Orm.unique(),
        repository=unpublished,
    )["base_path"]
    yield Content(base_path, {"unpublished": unpublished})


FIRST = "star_hello-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    "row",
    [
        Row(f"/pulp/content/{{base}}/{FIRST}", FILE),
        Row(f"/pulp/content/{{base}}/{FIRST}", FILE, method="HEAD"),
        Row(f"/pulp/content/{{unpublished}}/{FIRST}", FILE),
        Row("/pulp/content/{base}/simple/", INDEX),
        Row("/pulp/content/{base}/simple/star-hello/", INDEX),
        Row("/pulp/content/{base}/simple/star-hello", "redirect body"),
        Row("/pulp/content/{base}/pypi/star-hello/json", ANSWER),
        Row("/pulp/content/{base}/pypi/star-hello/json", ANSWER, method="HEAD"),
        Row("/pulp/content/{base}/pypi/Star_Hello/json", ANSWER),
        Row("/pulp/content/{base}/pypi/star-hello/1.0/json", ANSWER),
        Row("/pulp/content/{base}/pypi/star-hello/3.0/json", "error text"),
        Row("/pulp/content/{base}/pypi/nope/json", "error text"),
        Row("/pulp/content/{base}/", "listing page"),
        Row("/pulp/content/{unpublished}/", "listing page"),
        Row("/pulp/content/{base}/nope", "error text"),
    ],
    ids=str,
)
def test_parity(instance, upstream, content, row):
    content.compare(instance, upstream, row)


@pytest.mark.parametrize("index", ["/pypi/{unpublished}/simple/", "/pypi/{base}/simple/"])
def test_pip_downloads_by_the_index_of_the_api(instance, content, workshop, home, index):
    pip(instance.url + index.format(base=content.base_path, **content.values), home)
    assert same(workshop, home)


def test_pip_downloads_by_the_published_index(instance, content, workshop, home):
    pip(f"{instance.content_url}{content.base_path}/simple/", home)
    assert same(workshop, home)


def test_pip_downloads_by_the_recipe(instance, content, workshop, home):
    [command] = commands(recipe(instance, content.base_path, "pip"))
    index = next(word for word in command if word.startswith("http"))
    pip(index, home)
    assert same(workshop, home)


@needs_client("uv")
def test_uv_installs_by_the_recipe(instance, content, home):
    [command] = commands(recipe(instance, content.base_path, "uv"), PACKAGE="star-hello==1.0")
    run([CLIENTS / "uv", *command[1:], "--no-cache", "--target", home / "target"], home)
    assert (home / "target/star_hello.py").read_text() == "version = '1.0'\n"


@needs_client("twine")
def test_twine_uploads_by_the_recipe(instance, api, workshop, home):
    repository = api.create("repositories/python/python/", name=Orm.unique())["pulp_href"]
    named = {"name": Orm.unique(), "base_path": Orm.unique(), "repository": repository}
    base_path = api.create("distributions/python/pypi/", **named)["base_path"]
    (home / "dist").mkdir()
    wheel(home / "dist", "1.0", "star_twine")
    [command] = commands(recipe(instance, base_path, "twine"))
    login = {"TWINE_USERNAME": instance.username, "TWINE_PASSWORD": instance.password}
    run([CLIENTS / "twine", *command[1:], "--non-interactive"], home, **login)
    index = f"{instance.url}/pypi/{base_path}/simple/star-twine/"
    wait_until(lambda: "star_twine-1.0" in get(index).text)


def test_recipe_of_a_distribution_without_uploads_has_no_twine(instance, api):
    named = {"name": Orm.unique(), "base_path": Orm.unique(), "allow_uploads": False}
    base_path = api.create("distributions/python/pypi/", **named)["base_path"]
    assert "twine" not in get(f"{instance.content_url}{base_path}/?use").text


def test_pip_downloads_by_pull_through(instance, pulp, far, workshop, home):
    """The API's index links to content, with the remote's URL in the query."""
    file = wheel(workshop, "1.0", "star_far")
    far.files["packages/" + file.name] = file.read_bytes()
    link = f'<a href="../../packages/{file.name}">{file.name}</a>'
    far.files["simple/star-far/"] = link.encode()
    far.behaviours["simple/star-far/"] = with_content_type("text/html")
    repository = pulp.create("repositories/python/python/", name=Orm.unique())["pulp_href"]
    base_path = distribute_remote(
        pulp, "python/pypi", "python/python", far.url, repository=repository
    )
    for folder in ("first", "second"):
        (home / folder).mkdir()
        pip(f"{instance.url}/pypi/{base_path}/simple/", home / folder, "star-far==1.0")
        assert (home / folder / file.name).read_bytes() == file.read_bytes()
    assert far.gets["packages/" + file.name] == 1
    assert only_pulp_requested(far)


def test_pull_through_saves_the_same_content_as_upstream(servers, pulp, far, workshop):
    def package(name: str) -> dict[str, bytes]:
        file = wheel(workshop, "1.0", f"star_{name}")
        about = METADATA.format(name=f"star_{name}", version="1.0").encode()
        return {file.name: file.read_bytes(), f"{file.name}.metadata": about}

    check_pull_through(servers, pulp, far, "python/pypi", package, entry=2)


def test_proxy_mode_serves_the_plugin(instance, upstream, proxying, content, workshop, home):
    served, why = reported(instance, proxying, serving_mode("proxy", upstream))["pulp-python"]
    assert served == "proxied"
    assert why.endswith(
        "PythonDistribution.content_handler; CONTENT_STAR_LEGACY_PLUGINS is 'proxy'"
    )
    below = [
        FIRST,
        "simple/",
        "simple/star-hello/",
        "simple/star-hello",
        "pypi/star-hello/json",
        "pypi/nope/json",
        "",
        "nope",
    ]
    rows = [Row(f"/pulp/content/{{base}}/{path}") for path in below]
    rows.append(Row(f"/pulp/content/{{unpublished}}/{FIRST}", headers={"Range": "bytes=1-9"}))
    rows.append(Row("/pulp/content/{base}/pypi/star-hello/json", method="HEAD"))
    content.compare_proxied(upstream, proxying.url, *rows)
    pip(f"{proxying.url}/pypi/{content.values['unpublished']}/simple/", home)
    assert same(workshop, home)


def test_refuse_mode_refuses_the_plugin(instance, refusing, content):
    served, why = reported(instance, refusing, serving_mode("refuse"))["pulp-python"]
    assert served == "refused"
    for path in (FIRST, "simple/", "pypi/star-hello/json", ""):
        refused = get(f"{refusing.content_url}{content.base_path}/{path}")
        assert refused.status_code == 501
        assert why in refused.text
    index = get(f"{refusing.url}/pypi/{content.values['unpublished']}/simple/star-hello/")
    assert index.status_code == 200, "served by the API"


def pip(index: str, home: Path, requirement: str = "star-hello==1.0") -> None:
    command = [sys.executable, "-m", "pip", "--isolated", "--no-cache-dir", "download"]
    run([*command, "--no-deps", "--index-url", index, requirement], home)


def same(workshop: Path, home: Path) -> bool:
    return (home / FIRST).read_bytes() == (workshop / FIRST).read_bytes()
