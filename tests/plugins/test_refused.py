"""Plugins that are refused or bridged, and the reports of how each plugin is served."""

import json

import httpx
import pytest

from tests.support.pulp import unique
from tests.support.server import serving

pytestmark = pytest.mark.slow


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


def command_report(plugged, **environ: str) -> dict[str, dict[str, str]]:
    command = ["pulpcore-manager", "content-star-plugins", "--json"]
    return {each["label"]: each for each in json.loads(plugged.run(command, **environ).stdout)}


def test_readyz_and_command_report_how_every_plugin_is_served(plugged, content):
    status = content.get("readyz", headers={"Accept": "application/json"}).json()
    assert status["ready"] is True
    reported = {each["label"]: each for each in status["plugins"]}
    assert reported["example"] == {
        "label": "example",
        "app": "pulp_example.app",
        "package": "pulp-example",
        "version": "1.0.0",
        "served": "native",
        "why": "it reports star, in pulp_example.app.content_star",
        "reports": ["aiohttp", "star"],
        "ends_with": None,
        "prefixes": [],
        "problem": None,
    }
    assert reported["file"]["served"] == "native"
    assert "served by pulp_probe.app.content_star.ProbeApp" in reported["file"]["why"]
    assert reported["core"]["why"] == "its distributions are Pulp's own"
    assert command_report(plugged) == reported
    table = plugged.run(["pulpcore-manager", "content-star-plugins"], PYTHONPATH="").stdout
    (line,) = (line for line in table.splitlines() if line.startswith("file "))
    assert " native " in line
    assert "plain publications" in line, "without pulp_probe, which serves its model"
    assert content.get("readyz").text == "ok\n", "plain text without Accept"


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


def test_plugin_that_fails_to_import_is_refused_without_affecting_others(
    plugged, base, plain, variant
):
    variant("__init__.py", '{"aiohttp", "star"}', '{"star"}')
    with serving(plugged, **variant(*BROKEN)) as server:
        refused = httpx.get(f"{server.content_url}{base}/a.txt")
        assert refused.status_code == 501
        assert "pulp_example.app.content_star fails to import (RuntimeError" in refused.text
        assert "secret words" not in refused.text
        assert httpx.get(f"{server.content_url}{plain}/a.txt").text == "plain"
        root = f"{server.url}/pulp/probe/api/endpoint"
        assert httpx.get(root).text == "endpoint", "the other plugin's prefix"
        root = f"{server.content_url}{plain}/api/endpoint"
        assert httpx.get(root).text == "endpoint"
        assert server.said().count("secret words") == 2, "in one log line and its traceback"


def test_plugin_that_fails_to_import_is_bridged_if_it_has_aiohttp_code(plugged, base, variant):
    environ = variant(*BROKEN)
    with serving(plugged, **environ) as server:
        served = httpx.get(f"{server.content_url}{base}/a.txt")
        assert served.text == "first"
        assert served.headers["X-Example"] == base, "by content_headers_for"
        said = [line for line in server.said().splitlines() if "pulpcore.deprecation" in line]
        assert len(said) == 1
        assert "plugin example" in said[0]


def test_legacy_plugin_is_refused_by_setting(plugged, base, plain, variant):
    serving_mode = variant(
        "__init__.py",
        'content_star = "pulp_example.app.content_star"',
        "",
    )
    variant("__init__.py", '{"aiohttp", "star"}', '{"aiohttp"}')
    with serving(plugged, PULP_CONTENT_STAR_LEGACY_PLUGINS="refuse", **serving_mode) as server:
        refused = httpx.get(f"{server.content_url}{base}/a.txt")
        assert refused.status_code == 501
        assert "it reports aiohttp, and has ExampleDistribution.content_handler" in refused.text
        assert "CONTENT_STAR_LEGACY_PLUGINS is 'refuse'" in refused.text
        assert httpx.get(f"{server.content_url}{plain}/a.txt").text == "plain"


def test_start_fails_if_two_classes_serve_one_model(plugged, variant):
    environ = variant("content_star.py", "@serves(ExampleDistribution)", OTHER)
    command = ["uvicorn", "pulpcore.routing:application", "--port", "0"]
    result = plugged.run(command, check=False, **environ)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    for name in ("content_star.OtherApp", "content_star.ExampleApp", "ExampleDistribution"):
        assert f"pulp_example.app.{name}" in last.replace("models.", "")


def test_start_fails_if_a_plugin_reports_an_unknown_implementation(plugged, variant):
    environ = variant("__init__.py", '"aiohttp"', '"flask"')
    command = ["uvicorn", "pulpcore.routing:application", "--port", "0"]
    result = plugged.run(command, check=False, **environ)
    assert result.returncode != 0
    assert "plugin 'example'" in result.stderr.strip().splitlines()[-1]
