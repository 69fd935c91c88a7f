"""What each module of tests says about its plugin, and the clients that they run."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from tests.parity.differences import DIFFERENCES
from tests.parity.test_parity import Row, ask, explain, facets, judge
from tests.plugins_real.differences import OF_PLUGINS
from tests.support.instance import wait_until
from tests.support.pulp import Pulp, unique
from tests.support.remote_server import Behaviour, Upstream

ADDED = {*SECURITY_HEADERS, "cache-control"}
"""Headers that every answer of a distribution's has, also of one that is served elsewhere."""


@dataclass(frozen=True)
class Plugin:
    """A plugin, for the table in docs/plugins.md; a module of tests has one, as `PLUGIN`."""

    name: str
    """As PyPI knows it."""

    client: str
    """The client, and what it did."""

    note: str = ""
    """What is worth knowing beside the result, with no full stop."""


@dataclass(frozen=True)
class Content:
    """Content that a module has made, to be asked for through both servers."""

    base_path: str
    places: Mapping[str, str] = field(default_factory=dict)
    """What `{names}` in the module's table of requests stand for, besides `{base}`."""

    def passed_on(self, there: str, here: str, *rows: Row) -> None:
        """Send requests to a server and to one that passes them on to it: they are alike."""
        places = {"base": self.base_path, **self.places}
        for row in rows:
            theirs, ours = ask(there, row, places), ask(here, row, places)
            different = facets(theirs, ours) - (ADDED - theirs.headers.keys())
            assert not different, f"{row}: {explain(different, theirs, ours)}"

    def compare(self, instance: Any, upstream: str, row: Row) -> None:
        """Send one request, whose path starts at the root of the host, to both; see `judge`."""
        places = {"base": self.base_path, **self.places}
        theirs, ours = ask(upstream, row, places), ask(instance.url, row, places)
        judge(row, facets(theirs, ours), theirs, ours, {**DIFFERENCES, **OF_PLUGINS})


def run(
    command: list[str | Path], home: Path, check: bool = True, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, with a home of its own and nothing of the tests' environment."""
    completed = subprocess.run(
        [str(part) for part in command],
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if check and completed.returncode:
        raise AssertionError(f"{completed.args}: {completed.stdout}{completed.stderr}")
    return completed


def upload(pulp: Pulp, endpoint: str, file: Path, **fields: str) -> dict[str, Any]:
    """Upload a file as content of a plugin, and return the task that made it."""
    with file.open("rb") as stream:
        response = pulp.http.post(
            f"{pulp.root}content/{endpoint}", data=fields, files={"file": (file.name, stream)}
        )
    return pulp.task(response)


def pulling(pulp: Pulp, kind: str, remote: str, url: str, **fields: Any) -> str:
    """Make a distribution that asks a remote for what it lacks, and return its base path.

    `kind` is the distribution's in the REST API, `remote` the remote's.
    """
    made = pulp.create(f"remotes/{remote}/", name=unique("far"), url=url)["pulp_href"]
    named = {"name": unique("pulling"), "base_path": unique("pulling")}
    return pulp.create(f"distributions/{kind}/", remote=made, **named, **fields)["base_path"]


Package = Callable[[str], Mapping[str, bytes]]
"""The files that a remote has of a package with some name, by path."""


def pulled_alike(
    servers: Sequence[str], pulp: Pulp, far: Upstream, kind: str, files: Package, entry: int
) -> None:
    """Check that Pulp has the same of a remote's package, whichever of `servers` was asked for it.

    Each is asked for the files of a package of its own, twice, and has to send them both times.
    `entry` of them are content by then. `kind` is the distribution's in the REST API.
    """
    found = []
    for number, origin in enumerate(servers):
        name = f"nr{number}"
        far.files = dict(files(name))
        plugin = kind.partition("/")[0]
        repository = pulp.create(f"repositories/{plugin}/{plugin}/", name=unique("gains"))
        href = repository["pulp_href"]
        base_path = pulling(pulp, kind, f"{plugin}/{plugin}", far.url, repository=href)
        for _ in range(2):
            for path, data in far.files.items():
                response = get(f"{origin}/pulp/content/{base_path}/{path}")
                assert (response.status_code, response.content) == (200, data), path
            assert get(f"{origin}/pulp/content/{base_path}/nope").status_code == 404
            wait_until(partial(is_kept, base_path, entry))
        rows = kept_of(base_path)
        found.append({tuple(str(each).replace(name, "") for each in row) for row in rows})
    assert all(each == found[0] for each in found)


def is_kept(base_path: str, count: int) -> bool:
    """Whether so many files of a distribution's remote are content, and no task goes on."""
    from pulpcore.app.models import Task
    from pulpcore.constants import TASK_FINAL_STATES

    under_way = Task.objects.exclude(state__in=TASK_FINAL_STATES)
    return len(kept_of(base_path)) == count and not under_way.exists()


def kept_of(base_path: str) -> set[tuple[object, ...]]:
    """Of each file that Pulp knows a distribution's remote to have: type of the content, path, URL,
    and whether it is saved and in the repository."""
    from pulpcore.app.models import Distribution, RemoteArtifact

    distribution = Distribution.objects.get(base_path=base_path)
    version = distribution.repository and distribution.repository.latest_version()
    there = set(version.content.values_list("pk", flat=True)) if version else set()
    return {
        (
            each.content_artifact.content.pulp_type,
            each.content_artifact.relative_path,
            each.url.removeprefix(distribution.remote.url),
            each.content_artifact.artifact_id is not None,
            each.content_artifact.content_id in there,
        )
        for each in RemoteArtifact.objects.filter(remote=distribution.remote)
    }


def asked_by_pulp_alone(far: Upstream) -> bool:
    """Whether nobody else has asked the remote: the client asked for all of Pulp."""
    agents = {request.headers.get("User-Agent", "") for request in far.seen}
    return bool(agents) and all(agent.startswith("pulpcore/") for agent in agents)


def typed(content_type: str) -> Behaviour:
    """Have a remote tell the type of what it sends."""

    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        return web.Response(body=data, content_type=content_type)

    return respond


def get(url: str, **arguments: Any) -> httpx.Response:
    """GET without the environment's proxies; redirects are followed, as clients do."""
    return httpx.get(url, trust_env=False, timeout=30, follow_redirects=True, **arguments)


def served_in_place(path: str, here: httpx.Client, there: httpx.Client) -> bytes:
    """Check that `here` serves the content that `there` redirects to, and return it."""
    redirect = there.get(path)
    assert redirect.status_code == 302, redirect.text
    assert there.head(path).status_code == 302
    content = there.get(redirect.headers["Location"])
    assert content.status_code == 200, content.text
    whole, head = here.get(path), here.head(path)
    assert (whole.status_code, whole.content) == (200, content.content)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert whole.headers[name] == head.headers[name] == content.headers[name]
    assert whole.headers["Cache-Control"] in ("private, no-cache", "no-store")
    part = here.get(path, headers={"Range": "bytes=1-9"})
    assert (part.status_code, part.content) == (206, content.content[1:10])
    unchanged = here.get(path, headers={"If-None-Match": whole.headers["ETag"]})
    assert unchanged.status_code == 304
    return whole.content


def asking(origin: str, **arguments: Any) -> httpx.Client:
    """A client that follows no redirects."""
    return httpx.Client(base_url=origin, trust_env=False, timeout=30, **arguments)


def serving_mode(chosen: str, legacy_url: str = "") -> dict[str, str]:
    """The environment in which what is written for aiohttp is passed on to a server, or refused."""
    url = {"PULP_CONTENT_STAR_LEGACY_URL": legacy_url} if legacy_url else {}
    return {"PULP_CONTENT_STAR_LEGACY_PLUGINS": chosen, **url}


def reported(instance: Any, server: Any, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """How each plugin is served and why, by what the command says and the server alike."""
    command = ["pulpcore-manager", "content-star-plugins", "--json"]
    said = json.loads(instance.run(command, **environ).stdout)
    told = get(f"{server.content_url}readyz", headers={"Accept": "application/json"}).json()
    by_command, by_server = (
        {each["package"]: (each["served"], each["why"]) for each in plugins}
        for plugins in (said, told["plugins"])
    )
    assert by_command == by_server
    return by_server


def needs(program: str) -> pytest.MarkDecorator:
    """Skip what runs a program that is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
