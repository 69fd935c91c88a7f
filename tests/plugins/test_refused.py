"""Plugins that are not served natively, and how operators learn of it."""

import json

import httpx
import pytest

from tests.support.pulp import unique
from tests.support.server import serving


@pytest.fixture(scope="module")
def base(module_pulp) -> str:
    """The base path of a distribution of the example plugin."""
    repository = module_pulp.repository({"a.txt": b"first"})
    name = unique("shelf")
    module_pulp.create(
        "distributions/example/example/", name=name, base_path=name, repository=repository
    )
    return name


@pytest.fixture(scope="module")
def plain(module_pulp) -> str:
    """The base path of a distribution of another plugin."""
    publication = module_pulp.publish(module_pulp.repository({"a.txt": b"plain"}))
    return module_pulp.distribute(publication=publication)


def listed(plugged, **environ: str) -> dict[str, dict[str, str]]:
    command = ["pulpcore-manager", "content-star-plugins", "--json"]
    return {each["label"]: each for each in json.loads(plugged.run(command, **environ).stdout)}


def test_the_status_and_the_command_list_every_plugin(plugged, content):
    status = content.get("readyz", headers={"Accept": "application/json"}).json()
    assert status["ready"] is True
    told = {each["label"]: each for each in status["plugins"]}
    assert told["example"] == {
        "label": "example",
        "app": "pulp_example.app",
        "package": "pulp-example",
        "version": "1.0.0",
        "served": "native",
        "why": "it reports star, in pulp_example.app.content_star",
        "prefixes": [],
        "problem": None,
    }
    assert told["file"]["served"] == "native"
    assert "served by pulp_probe.app.content_star.ProbeApp" in told["file"]["why"]
    assert told["core"]["why"] == "its distributions are Pulp's own"
    assert listed(plugged) == told
    table = plugged.run(["pulpcore-manager", "content-star-plugins"], PYTHONPATH="").stdout
    (line,) = (line for line in table.splitlines() if line.startswith("file "))
    assert " native " in line
    assert "plain publications" in line, "without the plugin that claims its model"
    assert content.get("readyz").text == "ok\n", "probes read no JSON"


OTHER = """
@serves(ExampleDistribution)
class OtherApp(RepositoryVersionApp):
    pass


@serves(ExampleDistribution)"""
BROKEN = (
    "content_star.py",
    "MAX_NOTE_BYTES = 10_000",
    "import pulp_probe.app.content_star\nraise RuntimeError('secret words')",
)


def test_a_module_that_fails_to_import_takes_only_its_own_plugin_along(
    plugged, base, plain, variant
):
    variant("__init__.py", '{"aiohttp", "star"}', '{"star"}')
    with serving(plugged, **variant(*BROKEN)) as server:
        refused = httpx.get(f"{server.content_url}{base}/a.txt", trust_env=False)
        assert refused.status_code == 501
        assert "pulp_example.app.content_star fails to import (RuntimeError" in refused.text
        assert "secret words" not in refused.text
        assert httpx.get(f"{server.content_url}{plain}/a.txt", trust_env=False).text == "plain"
        root = f"{server.url}/pulp/probe/live/endpoint"
        assert httpx.get(root, trust_env=False).text == "endpoint", "imported by both"
        root = f"{server.content_url}{plain}/live/endpoint"
        assert httpx.get(root, trust_env=False).text == "endpoint"
        assert server.said().count("secret words") == 2, "the line and its exception, once"


def test_it_is_bridged_if_the_plugin_has_an_aiohttp_implementation_too(plugged, base, variant):
    environ = variant(*BROKEN)
    with serving(plugged, **environ) as server:
        served = httpx.get(f"{server.content_url}{base}/a.txt", trust_env=False)
        assert served.text == "first"
        assert served.headers["X-Example"] == base, "by the model's hook"
        said = [line for line in server.said().splitlines() if "pulpcore.deprecation" in line]
        assert len(said) == 1
        assert "plugin example" in said[0]


def test_what_is_not_ported_can_be_refused(plugged, base, plain, variant):
    serving_mode = variant(
        "__init__.py",
        'content_star = "pulp_example.app.content_star"',
        "",
    )
    variant("__init__.py", '{"aiohttp", "star"}', '{"aiohttp"}')
    with serving(plugged, PULP_CONTENT_STAR_LEGACY_PLUGINS="refuse", **serving_mode) as server:
        refused = httpx.get(f"{server.content_url}{base}/a.txt", trust_env=False)
        assert refused.status_code == 501
        assert "it reports aiohttp, and has ExampleDistribution.content_handler" in refused.text
        assert "CONTENT_STAR_LEGACY_PLUGINS is 'refuse'" in refused.text
        assert httpx.get(f"{server.content_url}{plain}/a.txt", trust_env=False).text == "plain"


def test_pulp_does_not_start_if_two_classes_claim_a_model(plugged, variant):
    environ = variant("content_star.py", "@serves(ExampleDistribution)", OTHER)
    command = ["uvicorn", "pulpcore.routing:application", "--port", "0"]
    result = plugged.run(command, check=False, **environ)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    for name in ("content_star.OtherApp", "content_star.ExampleApp", "ExampleDistribution"):
        assert f"pulp_example.app.{name}" in last.replace("models.", "")


def test_pulp_does_not_start_if_a_plugin_reports_nonsense(plugged, variant):
    environ = variant("__init__.py", '"aiohttp"', '"flask"')
    command = ["uvicorn", "pulpcore.routing:application", "--port", "0"]
    result = plugged.run(command, check=False, **environ)
    assert result.returncode != 0
    assert "plugin 'example'" in result.stderr.strip().splitlines()[-1]
