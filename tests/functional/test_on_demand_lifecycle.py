"""On-demand content after Pulp's tasks: sync, reclaim space, refresh of alternate sources."""

import random
from typing import Any

import pytest

from tests.support.instance import wait_until
from tests.support.pulp import Pulp, unique
from tests.support.remote_server import Upstream

pytestmark = pytest.mark.slow

SIZES = {"small": 5000, "big": 400_000}  # the small one is cached in memory


class Folder:
    """A folder of the remote server with two files, and the repositories synced from it."""

    def __init__(self, pulp: Pulp, server: Upstream) -> None:
        self.pulp = pulp
        self.server = server
        self.name = unique("folder")

    def fill(self, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
        files = files or {name: random.randbytes(size) for name, size in SIZES.items()}
        paths = [f"{self.name}/{name}" for name in files]
        self.server.files.update(zip(paths, files.values(), strict=True))
        manifest = self.server.manifest(*paths).replace(f"{self.name}/".encode(), b"")
        self.server.files[f"{self.name}/PULP_MANIFEST"] = manifest
        return files

    def remote(self, policy: str) -> str:
        remote: dict[str, Any] = self.pulp.create(
            "remotes/file/file/",
            name=unique("remote"),
            url=f"{self.server.url}{self.name}/PULP_MANIFEST",
            policy=policy,
            max_retries=1,
        )
        return remote["pulp_href"]

    def sync(self, policy: str) -> tuple[str, str]:
        """Return the repository, and the base path of its distribution."""
        repository = self.pulp.repository(autopublish=True)
        remote = {"remote": self.remote(policy)}
        self.pulp.task(self.pulp.http.post(f"{repository}sync/", json=remote))
        return repository, self.pulp.distribute(repository=repository)

    def gets(self, name: str) -> int:
        return self.server.gets[f"{self.name}/{name}"]


@pytest.fixture
def folder(pulp, server) -> Folder:
    return Folder(pulp, server)


def saved(folder: Folder, name: str) -> bool:
    from pulpcore.app.models import ContentArtifact

    return ContentArtifact.objects.filter(
        remoteartifact__url__endswith=f"{folder.name}/{name}", artifact__isnull=False
    ).exists()


@pytest.mark.parametrize("policy", ["immediate", "on_demand"])
def test_reclaimed_file_is_fetched_once_and_saved(pulp, content, folder, policy):
    files = folder.fill()
    repository, base = folder.sync(policy)
    for name, data in files.items():
        for _ in range(2):  # the second is a cache hit
            assert content.get(f"{base}/{name}").content == data
            assert saved(folder, name), "when the response ends"
    reclaim = {"repo_hrefs": [repository]}
    pulp.task(pulp.http.post(f"{pulp.root}repositories/reclaim_space/", json=reclaim))
    assert not any(saved(folder, name) for name in files)
    for name, data in files.items():
        before = folder.gets(name)
        first = content.get(f"{base}/{name}")
        assert first.content == data
        assert saved(folder, name), "when the response ends"
        again = content.get(f"{base}/{name}")
        assert again.content == data
        assert again.headers["ETag"] == first.headers["ETag"]
        assert folder.gets(name) == before + 1


def refresh(pulp: Pulp, acs: str) -> None:
    response = pulp.http.post(f"{acs}refresh/")
    assert response.status_code == 202, response.text
    group = response.json()["task_group"]

    def is_over() -> bool:
        states = [task["state"] for task in pulp.get(group)["tasks"]]
        assert not {"failed", "canceled", "skipped"} & {*states}
        return states == ["completed"]  # it has one path, the root

    wait_until(is_over, explain=lambda: str(pulp.get(group)))


def test_refreshed_alternate_content_source_is_tried_first(pulp, content, server, folder):
    files = folder.fill()
    _, base = folder.sync("on_demand")
    near = Folder(pulp, server)
    near.fill(files)
    acs = pulp.create("acs/file/file/", name=unique("acs"), remote=near.remote("on_demand"))
    refresh(pulp, acs["pulp_href"])
    assert content.get(f"{base}/small").content == files["small"]
    assert (folder.gets("small"), near.gets("small")) == (0, 1)
    del server.files[f"{near.name}/big"]
    assert content.get(f"{base}/big").content == files["big"]
    assert (folder.gets("big"), near.gets("big")) == (1, 1)
    for name in files:
        wait_until(lambda name=name: saved(folder, name))
