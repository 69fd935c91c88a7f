"""`pulp-star list` and `remove`, on repositories made by `pulp-star add`."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.instance import Instance

pytestmark = pytest.mark.slow

FILE = "/pulp/api/v3/{}/file/file/"


@pytest.fixture
def api(instance: Instance) -> Iterator[httpx.Client]:
    with instance.client() as client:
        yield client


@pytest.fixture
def added(instance: Instance, tmp_path: Path) -> str:
    """The name and base path of an added folder of two files."""
    name = f"list-{uuid4().hex[:12]}"
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text(f"a of {name}")
    (folder / "sub" / "b.txt").write_text(f"b of {name}")
    instance.star("add", str(folder), "--base-path", name)
    return name


def found(api: httpx.Client, kind: str, **query: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = api.get(FILE.format(kind), params=query).json()["results"]
    return results


def listed(instance: Instance) -> dict[str, list[str]]:
    """Return the cells of each row of the list, by the first cell."""
    rows = [line.split() for line in instance.star("list").stdout.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_list_shows_name_base_path_files_and_url(instance: Instance, added: str) -> None:
    rows = listed(instance)
    assert rows["NAME"] == ["BASE", "PATH", "FILES", "URL"]
    assert rows[added] == [added, "2", f"{instance.content_url}{added}/"]
    assert rows["hello"][1] == "3"


def test_list_shows_a_distribution_without_a_repository(
    instance: Instance, api: httpx.Client
) -> None:
    name = f"empty-{uuid4().hex[:12]}"
    body = {"name": name, "base_path": f"{name}/below"}
    api.post(FILE.format("distributions"), json=body).raise_for_status()
    assert listed(instance)[name] == [f"{name}/below", "-", f"{instance.content_url}{name}/below/"]


def test_list_works_on_another_pulp_by_url(instance: Instance, added: str, tmp_path: Path) -> None:
    completed = instance.star(
        *("list", "--url", instance.url, "--password", instance.password),
        *("--home", str(tmp_path / "none")),
    )
    assert added in completed.stdout


def test_remove_deletes_distribution_publication_and_repository(
    instance: Instance, api: httpx.Client, added: str
) -> None:
    [repository] = found(api, "repositories", name=added)
    assert found(api, "publications", repository=repository["pulp_href"])
    assert httpx.get(f"{instance.content_url}{added}/a.txt").status_code == 200

    completed = instance.star("remove", added, "--yes")

    assert httpx.get(f"{instance.content_url}{added}/a.txt").status_code == 404
    assert found(api, "distributions", name=added) == []
    assert found(api, "repositories", name=added) == []
    publications = found(api, "publications")
    assert repository["pulp_href"] not in {entity["repository"] for entity in publications}
    assert added not in listed(instance)
    assert f"Removed {added}" in completed.stdout
    assert "orphan cleanup --protection-time 0" in completed.stdout


def test_remove_finds_a_base_path(instance: Instance, added: str) -> None:
    folder = instance.state.working_directory / added
    folder.mkdir()
    (folder / "c.txt").write_text("c")
    instance.star("add", str(folder), "--base-path", f"{added}-deep/er", "--name", f"{added}-2")
    instance.star("remove", f"/{added}-deep/er/", "--yes")
    assert f"{added}-2" not in listed(instance)
    assert added in listed(instance)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("answer", "stays"), [("y\n", False), ("n\n", True), ("", True)])
def test_remove_asks_for_confirmation(
    instance: Instance, added: str, answer: str, stays: bool
) -> None:
    command = [sys.executable, "-m", "pulpcore.content_star.cli", "remove", added]
    completed = subprocess.run(
        [*command, "--home", str(instance.home)],
        input=answer,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (
        f"Remove {added} (2 files), served at {instance.content_url}{added}/?" in completed.stderr
    )
    assert completed.returncode == int(stays)
    assert (added in listed(instance)) is stays


def test_remove_of_an_unknown_name_is_an_error(instance: Instance) -> None:
    completed = instance.star("remove", "no-such-thing", "--yes", check=False)
    assert completed.returncode == 1
    assert completed.stderr.startswith("Error: There is no distribution no-such-thing.")
    assert len(completed.stderr.splitlines()) == 1


def test_remove_leaves_a_repository_that_is_served_elsewhere(
    instance: Instance, api: httpx.Client, added: str
) -> None:
    [repository] = found(api, "repositories", name=added)
    other = {"name": f"{added}-other", "base_path": f"{added}-other"}
    body = {**other, "repository": repository["pulp_href"]}
    api.post(FILE.format("distributions"), json=body).raise_for_status()

    for name, reason in ((added, "as well"), (f"{added}-other", "of its own name")):
        completed = instance.star("remove", name, "--yes", check=False)
        assert completed.returncode == 1
        assert reason in completed.stderr

    assert httpx.get(f"{instance.content_url}{added}/a.txt").status_code == 200


def test_remove_leaves_files_in_the_storage_as_orphans(
    instance: Instance, api: httpx.Client, added: str
) -> None:
    query = {"relative_path": "sub/b.txt"}
    units = {unit["pulp_href"] for unit in _content(api, added, **query)}
    instance.star("remove", added, "--yes")
    remaining = {unit["pulp_href"] for unit in _all_content(api, **query)}
    assert units <= remaining


def _content(api: httpx.Client, name: str, **query: str) -> list[dict[str, Any]]:
    [repository] = found(api, "repositories", name=name)
    return _all_content(api, repository_version=repository["latest_version_href"], **query)


def _all_content(api: httpx.Client, **query: str) -> list[dict[str, Any]]:
    answer = api.get("/pulp/api/v3/content/file/files/", params={"limit": "2000", **query})
    results: list[dict[str, Any]] = answer.json()["results"]
    return results
