"""`pulp-star add`: publish a folder of files as a repository, and update it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pulpcore.app.serializers import fields
from tests.support.instance import Instance, wait_until

pytestmark = pytest.mark.slow

API = "/pulp/api/v3"
NAMES = [
    "plain.txt",
    "with space.txt",
    "com,ma,.txt",
    "q'uo\"te.txt",
    "100%.txt",
    "%41.txt",
    "in#side.txt",
    "qu?ery.txt",
    "co:lon.txt",
    "<lt>&amp;.txt",
    "semi;colon.txt",
    "back\\slash.txt",
    "ünï-日本.txt",
    "PULP_MANIFEST",
    "index.html",
    "sub dir/#deep/x:y",
]


class AddedFolder:
    """A folder and its base path, with queries of the objects that `add` has made for it."""

    def __init__(self, instance: Instance, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        self.base_path = f"add-{uuid4().hex[:12]}"
        self.api = instance.client()

    def add(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        base_path = [] if "--base-path" in arguments else ["--base-path", self.base_path]
        return self.instance.star("add", str(self.folder), *base_path, *arguments, check=check)

    def all(self, what: str, **query: Any) -> list[dict[str, Any]]:
        response = self.api.get(f"{API}/{what}/", params={"limit": 2000, **query})
        response.raise_for_status()
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    @property
    def version(self) -> str:
        [repository] = self.all("repositories/file/file", name=self.base_path)
        return str(repository["latest_version_href"])

    @property
    def names(self) -> set[str]:
        units = self.all("content/file/files", repository_version=self.version)
        return {unit["relative_path"] for unit in units}

    def digest(self, name: str) -> str:
        units = self.all("content/file/files", repository_version=self.version, relative_path=name)
        return str(units[0]["sha256"])

    @property
    def publications(self) -> int:
        return len(self.all("publications/file/file", repository_version=self.version))

    @property
    def temporaries(self) -> list[str]:
        """The names of temporary objects of `add`."""
        prefix = f"pulp-star add {self.base_path} "
        kinds = ("repositories/file/file", "remotes/file/file")
        return [e["name"] for kind in kinds for e in self.all(kind, name__startswith=prefix)]

    def remove(self) -> None:
        for kind in ("distributions/file/file", "repositories/file/file"):
            for entity in self.all(kind, name__startswith=self.base_path):
                self.api.delete(entity["pulp_href"]).raise_for_status()
        self.api.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def served(instance: Instance, folder: Path) -> Iterator[AddedFolder]:
    served = AddedFolder(instance, folder)
    yield served
    served.remove()


def write(folder: Path, *names: str, text: str = "text of ") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + name)


def test_add_prints_the_url_last(served: AddedFolder) -> None:
    write(served.folder, "a.txt", "empty")
    (served.folder / "empty").write_text("")

    completed = served.add()

    url = served.instance.content_url + served.base_path + "/"
    assert completed.stdout.splitlines()[-1] == url
    assert served.names == {"a.txt", "empty"}
    assert served.publications == 1


def test_up_adds_the_hello_repository(instance: Instance) -> None:
    with instance.client() as api:
        found = api.get(f"{API}/distributions/file/file/", params={"base_path": "hello"}).json()
    assert found["count"] == 1
    assert f"curl {instance.content_url}hello/hello.txt" in instance.said()


def test_add_of_an_unchanged_folder_makes_no_version(served: AddedFolder) -> None:
    write(served.folder, "a.txt", "b/c.txt")
    served.add()
    version = served.version

    completed = served.add()

    assert "Nothing has changed" in completed.stdout
    assert served.version == version
    assert served.publications == 1


def test_add_of_a_changed_folder_makes_a_version_with_exactly_its_files(
    served: AddedFolder,
) -> None:
    write(served.folder, "stays", "changes", "goes", "deep/goes")
    served.add()
    before, stays, changes = served.version, served.digest("stays"), served.digest("changes")

    write(served.folder, "changes", text="another text of ")
    write(served.folder, "comes")
    (served.folder / "goes").unlink()
    shutil.rmtree(served.folder / "deep")
    completed = served.add()

    assert "1 added, 1 replaced, 2 removed" in completed.stdout
    assert served.names == {"stays", "changes", "comes"}
    assert served.digest("stays") == stays
    assert served.digest("changes") != changes
    number = int(before.rstrip("/").rsplit("/", 1)[1])
    assert served.version == before.replace(f"versions/{number}/", f"versions/{number + 1}/")


@pytest.mark.parametrize("transfer", ["sync", "upload"])
def test_add_removes_its_temporary_objects(served: AddedFolder, transfer: str) -> None:
    write(served.folder, "a.txt")
    served.add("--transfer", transfer)
    wait_until(lambda: served.temporaries == [])


def test_add_by_sync_accepts_all_file_names(served: AddedFolder) -> None:
    write(served.folder, *NAMES)

    completed = served.add()

    assert served.names == set(NAMES)
    assert completed.stderr == ""


refuses_names = pytest.mark.skipif(
    not hasattr(fields, "_RELPATH_FORBIDDEN_REGEX"), reason="this pulpcore accepts all file names"
)


@refuses_names
def test_add_by_upload_leaves_out_names_that_pulp_refuses(served: AddedFolder) -> None:
    accepted = ["plain.txt", "com,ma.txt", "100%.txt", "ünï-日本.txt", "sub/x:y", "same-bytes"]
    write(served.folder, *accepted)
    shutil.copy(served.folder / "plain.txt", served.folder / "same-bytes")
    write(served.folder, "with space", "in#side")

    completed = served.add("--transfer", "upload", check=False)

    assert completed.returncode == 1
    assert served.names == set(accepted)
    assert completed.stderr.splitlines() == [
        "Left out: in#side: Pulp accepts such a name only with --transfer sync",
        "Left out: with space: Pulp accepts such a name only with --transfer sync",
    ]


def test_add_by_upload_replaces_and_removes_files(served: AddedFolder) -> None:
    write(served.folder, "stays", "changes", "goes")
    served.add("--transfer", "upload")
    changes = served.digest("changes")

    write(served.folder, "changes", text="another text of ")
    (served.folder / "goes").unlink()
    served.add("--transfer", "upload")

    assert served.names == {"stays", "changes"}
    assert served.digest("changes") != changes


def test_add_reports_files_that_it_leaves_out(served: AddedFolder) -> None:
    write(served.folder, "a.txt", "#comment", "line\nbreak", " space")
    (served.folder / "link").symlink_to("a.txt")
    (served.folder / "directory-link").symlink_to("/etc")
    os.mkfifo(served.folder / "fifo")
    with open(os.fsencode(served.folder) + b"/latin-\xe9", "w") as file:
        file.write("x")

    completed = served.add(check=False)

    assert completed.returncode == 1
    assert served.names == {"a.txt"}
    assert completed.stderr.splitlines() == [
        "Left out:  space: its name begins or ends with a space, which Pulp drops",
        "Left out: #comment: its name begins with #, which Pulp takes for a comment",
        "Left out: directory-link: symbolic link",
        "Left out: fifo: not a regular file",
        "Left out: 'latin-\\udce9': its name is not UTF-8",
        "Left out: 'line\\nbreak': its name has a line break",
        "Left out: link: symbolic link",
    ]
    assert "7 left out" in completed.stdout


def test_add_with_only_symbolic_links_left_out_has_exit_code_0(served: AddedFolder) -> None:
    write(served.folder, "a.txt")
    (served.folder / "link").symlink_to("a.txt")
    assert served.add().returncode == 0


def test_add_of_1000_files(served: AddedFolder) -> None:
    names = {f"{number % 20}/{number}.txt" for number in range(1000)}
    write(served.folder, *names)

    served.add()

    assert served.names == names


def test_add_publishes_an_unpublished_version(served: AddedFolder) -> None:
    write(served.folder, "a.txt")
    served.add()
    [publication] = served.all("publications/file/file", repository_version=served.version)
    served.api.delete(publication["pulp_href"]).raise_for_status()

    served.add()

    assert served.publications == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "{url}", "--password", "wrong"], "Login failed: {url} does not know the user"),
        (["--url", "http://127.0.0.1:9", "--password", "x"], "No server answers at http://127.0"),
        (["--url", "{url}/nowhere", "--password", "x"], "{url}/nowhere is not the URL of a Pulp"),
        (["--base-path", "hello"], "The base path hello belongs to the distribution hello"),
        (["--base-path", "hello/below"], "Pulp refused (400): base_path: "),
        pytest.param(
            ["--base-path", "a//b"], "Pulp refused (400): base_path: ", marks=refuses_names
        ),
        (["--base-path", "/"], "The --base-path must not be empty."),
    ],
)
def test_add_error_is_one_line(served: AddedFolder, arguments: list[str], message: str) -> None:
    write(served.folder, "a.txt")
    url = served.instance.url

    completed = served.add(
        "--name", served.base_path, *(word.format(url=url) for word in arguments), check=False
    )

    assert completed.returncode == 1
    assert completed.stderr.startswith("Error: " + message.format(url=url))
    assert len(completed.stderr.splitlines()) == 1
    wait_until(lambda: served.all("repositories/file/file", name=served.base_path) == [])


def test_add_of_a_folder_without_files_is_an_error(served: AddedFolder) -> None:
    completed = served.add(check=False)
    assert completed.returncode == 1
    assert completed.stderr.startswith("Error: There is no file to add in ")
    assert served.all("repositories/file/file", name=served.base_path) == []


def test_add_of_a_missing_folder_is_an_error(served: AddedFolder) -> None:
    served.folder.rmdir()
    completed = served.add(check=False)
    assert completed.returncode == 2
    assert "does not exist" in completed.stderr
