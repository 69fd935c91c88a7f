"""The description of a plugin in its module of tests, and helpers to run its client."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from pulpcore.content_star.differences import DIFFERENCES
from pulpcore.content_star.responses.headers import SECURITY_HEADERS
from tests.parity.test_parity import Row, check_differences, describe, differing_facets, send_row
from tests.plugins_real.differences import OF_PLUGINS
from tests.support.instance import wait_until
from tests.support.pulp import Pulp, unique
from tests.support.remote_server import Behaviour, Upstream

ADDED = {*SECURITY_HEADERS, "cache-control"}
"""Headers that are added to every response of a distribution, also to proxied ones."""


@dataclass(frozen=True)
class Plugin:
    """A plugin in the table of docs/plugins.md; each module of tests has one as `PLUGIN`."""

    name: str
    """The name on PyPI."""

    client: str
    """The client, and the tested actions."""

    note: str = ""
    """A remark beside the result, without a full stop."""


@dataclass(frozen=True)
class Content:
    """Content of a module, to be requested from both servers."""

    base_path: str
    values: Mapping[str, str] = field(default_factory=dict)
    """What `{names}` in the module's table of requests stand for, besides `{base}`."""

    def compare_proxied(self, there: str, here: str, *rows: Row) -> None:
        """Check that a server and one that proxies to it send the same responses."""
        values = {"base": self.base_path, **self.values}
        for row in rows:
            theirs, ours = send_row(there, row, values), send_row(here, row, values)
            different = differing_facets(theirs, ours) - (ADDED - theirs.headers.keys())
            assert not different, f"{row}: {describe(different, theirs, ours)}"

    def compare(self, instance: Any, upstream: str, row: Row) -> None:
        """Compare the responses to a request, whose path starts at the root, of both servers."""
        values = {"base": self.base_path, **self.values}
        theirs, ours = send_row(upstream, row, values), send_row(instance.url, row, values)
        check_differences(
            row, differing_facets(theirs, ours), theirs, ours, {**DIFFERENCES, **OF_PLUGINS}
        )


def run(
    command: list[str | Path], home: Path, check: bool = True, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a client with its own home and without the tests' environment, and return its result."""
    completed = subprocess.run(
        [str(part) for part in command],
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check and completed.returncode:
        raise AssertionError(f"{completed.args}: {completed.stdout}{completed.stderr}")
    return completed


def recipe(instance: Any, base_path: str, title: str) -> str:
    """Return the text of a recipe for a distribution, whichever class answers its root."""
    url = f"{instance.content_url}{base_path}/?use"
    recipes = get(url, headers={"Accept": "application/json"}).json()["recipes"]
    return next(str(each["text"]) for each in recipes if each["title"].startswith(title))


def check_use_page_beside_own_page(instance: Any, base_path: str) -> None:
    """Check that browsers get how to use a distribution whose plugin answers the root itself."""
    url, browser = f"{instance.content_url}{base_path}/", {"Accept": "text/html,*/*;q=0.8"}
    assert "How to use" not in get(url, headers=browser).text
    page = get(f"{url}?use", headers=browser)
    assert page.status_code == 200
    assert "<h1>How to use" in page.text
    assert "<details open>" in page.text


def commands(text: str, **replaced: str) -> list[list[str]]:
    """Return the commands of a recipe, with placeholders replaced."""
    for placeholder, value in replaced.items():
        text = text.replace(placeholder, value)
    return [shlex.split(line) for line in text.splitlines()]


def upload(pulp: Pulp, endpoint: str, file: Path, **fields: str) -> dict[str, Any]:
    """Upload a file as content of a plugin, and return the task that created it."""
    with file.open("rb") as stream:
        response = pulp.http.post(
            f"{pulp.root}content/{endpoint}", data=fields, files={"file": (file.name, stream)}
        )
    return pulp.task(response)


def distribute_remote(pulp: Pulp, kind: str, remote: str, url: str, **fields: Any) -> str:
    """Create a distribution with pull-through from a remote, and return its base path.

    `kind` and `remote` are the endpoints of the distribution and the remote in the REST API.
    """
    made = pulp.create(f"remotes/{remote}/", name=unique("far"), url=url)["pulp_href"]
    named = {"name": unique("pull-through"), "base_path": unique("pull-through")}
    return pulp.create(f"distributions/{kind}/", remote=made, **named, **fields)["base_path"]


Package = Callable[[str], Mapping[str, bytes]]
"""Returns the files of a package on a remote, by path, for the package's name."""


def check_pull_through(
    servers: Sequence[str], pulp: Pulp, far: Upstream, kind: str, files: Package, entry: int
) -> None:
    """Check that pull-through saves the same content, whichever of `servers` gets the request.

    Each server is requested twice for the files of a package of its own, and has to send them both
    times; then `entry` of them are content. `kind` is the distribution's endpoint in the REST API.
    """
    found = []
    for number, origin in enumerate(servers):
        name = f"nr{number}"
        far.files = dict(files(name))
        plugin = kind.partition("/")[0]
        repository = pulp.create(f"repositories/{plugin}/{plugin}/", name=unique("gains"))
        href = repository["pulp_href"]
        base_path = distribute_remote(pulp, kind, f"{plugin}/{plugin}", far.url, repository=href)
        for _ in range(2):
            for path, data in far.files.items():
                response = get(f"{origin}/pulp/content/{base_path}/{path}")
                assert (response.status_code, response.content) == (200, data), path
            assert get(f"{origin}/pulp/content/{base_path}/nope").status_code == 404
            wait_until(partial(is_saved, base_path, entry))
        rows = content_of_remote(base_path)
        found.append({tuple(str(each).replace(name, "") for each in row) for row in rows})
    assert all(each == found[0] for each in found)


def is_saved(base_path: str, count: int) -> bool:
    """Return whether `count` files of the remote are content, and no task is running."""
    from pulpcore.app.models import Task
    from pulpcore.constants import TASK_FINAL_STATES

    running = Task.objects.exclude(state__in=TASK_FINAL_STATES)
    return len(content_of_remote(base_path)) == count and not running.exists()


def content_of_remote(base_path: str) -> set[tuple[object, ...]]:
    """Return of each remote artifact of the remote: content type, path, URL, and whether it is
    saved and in the repository."""
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


def only_pulp_requested(far: Upstream) -> bool:
    """Return whether all requests to the remote came from Pulp, and none from the client."""
    agents = {request.headers.get("User-Agent", "") for request in far.seen}
    return bool(agents) and all(agent.startswith("pulpcore/") for agent in agents)


def with_content_type(content_type: str) -> Behaviour:
    """Return a behaviour of the remote server that sends a Content-Type."""

    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        return web.Response(body=data, content_type=content_type)

    return respond


def get(url: str, **arguments: Any) -> httpx.Response:
    """GET, and follow redirects."""
    return httpx.get(url, follow_redirects=True, **arguments)


def check_internal_redirect(path: str, here: httpx.Client, there: httpx.Client) -> bytes:
    """Check that `here` sends the content that `there` redirects to, and return it."""
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


def client_of(origin: str, **arguments: Any) -> httpx.Client:
    """Return a client of a server that follows no redirects."""
    return httpx.Client(base_url=origin, **arguments)


def serving_mode(chosen: str, legacy_url: str = "") -> dict[str, str]:
    """Return the environment in which legacy plugins are proxied to a server, or refused."""
    url = {"PULP_CONTENT_STAR_LEGACY_URL": legacy_url} if legacy_url else {}
    return {"PULP_CONTENT_STAR_LEGACY_PLUGINS": chosen, **url}


def reported(instance: Any, server: Any, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return how each plugin is served and why, after comparing the command and the server."""
    command = ["pulpcore-manager", "content-star-plugins", "--json"]
    printed = json.loads(instance.run(command, **environ).stdout)
    status = get(f"{server.content_url}readyz", headers={"Accept": "application/json"}).json()
    by_command, by_server = (
        {each["package"]: (each["served"], each["why"]) for each in plugins}
        for plugins in (printed, status["plugins"])
    )
    assert by_command == by_server
    return by_server


CLIENTS = Path(sys.prefix) / "clients" / "bin"
"""Clients from PyPI, in an environment apart from that of the plugins."""


def needs_client(program: str) -> pytest.MarkDecorator:
    """Skip tests that need a client that `make test-plugins` installs from PyPI."""
    is_missing = not (CLIENTS / program).exists()
    return pytest.mark.skipif(is_missing, reason=f"{program} is not installed")


def needs(program: str) -> pytest.MarkDecorator:
    """Skip tests that need a program that is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
