"""The files in deploy/ by their schemas, and that they agree with one another."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest

from tests.support.deployment import (
    DEPLOY,
    command,
    compose,
    health_command,
    instructions,
    kustomization,
    manifests,
)
from tests.support.instance import in_venv

VERSIONS = ("1.30", "1.32", "1.34")
"""Minor versions of Kubernetes; `preStop.sleep` needs 1.30."""

DRAIN = int(command()[command().index("--timeout-graceful-shutdown") + 1])
PORT = int(command()[command().index("--port") + 1])


def lint(path: Path) -> str:
    completed = subprocess.run(
        [*in_venv(["hadolint"]), "--no-color", str(path)], capture_output=True, text=True
    )
    return completed.stdout + completed.stderr


def test_containerfile_passes_hadolint(tmp_path: Path) -> None:
    assert lint(DEPLOY / "Containerfile") == ""
    (tmp_path / "Containerfile").write_text("FROM debian:latest\nRUN cd /tmp\n")
    assert "DL3007" in lint(tmp_path / "Containerfile")


def test_containerfile_runs_as_a_numeric_user_other_than_root() -> None:
    """Kubernetes can check only a number for `runAsNonRoot`."""
    users = [value for name, value in instructions() if name == "USER"]
    assert users[-1] == "700:0"


def test_containerfile_copies_the_sources_of_the_package() -> None:
    (sources,) = [
        value.split()[:-1]
        for name, value in instructions()
        if name == "COPY" and "pyproject.toml" in value
    ]
    copied = {value.split()[0] for name, value in instructions() if name == "COPY"}
    assert {*sources, *copied} >= {"pyproject.toml", "README.md", "LICENSE", "docs", "pulpcore"}
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        *("pyproject.toml", "README.md", "LICENSE", "docs", "pulpcore")
    }


def test_compose_file_is_valid() -> None:
    parsed = compose_spec.PyCompose.from_json(json.dumps(compose()))
    parsed.validate()
    assert {"pulp-1", "pulp-2", "worker-1", "worker-2", "nginx"} <= set(parsed.service_names())


@pytest.mark.parametrize("fault", [{"imagee": "x"}, {"secrets": ["unknown"]}, {"tmpfs": {}}])
def test_compose_schema_finds_a_fault(fault: dict[str, Any]) -> None:
    faulty = compose()
    faulty["services"]["nginx"] |= fault
    with pytest.raises(ValueError):
        compose_spec.PyCompose.from_json(json.dumps(faulty)).validate()


def test_compose_services_agree() -> None:
    """Files exist, names resolve, and a container is not killed while it drains."""
    found = compose()
    services = found["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (
                source in found["volumes"]
                or source.startswith("/var/")
                or (DEPLOY / source).is_file()
            )
        assert set(service.get("depends_on", ())) <= set(services)
    configuration = (DEPLOY / "compose" / "nginx.conf").read_text()
    for name in ("pulp-1", "pulp-2"):
        assert f"server {name}:{PORT} " in configuration
        assert int(services[name]["stop_grace_period"].rstrip("s")) > DRAIN
    assert int(services["postgres"]["command"][-1].partition("=")[2]) == 200


def test_compose_has_the_health_check_of_the_image() -> None:
    """Images in podman's own format have none."""
    options = dict(instructions())["HEALTHCHECK"].split(" CMD ")[0].split()
    for name in ("pulp-1", "pulp-2"):
        check = compose()["services"][name]["healthcheck"]
        assert check.pop("test") == ["CMD", *health_command()]
        assert [f"--{key.replace('_', '-')}={value}" for key, value in check.items()] == options


def test_compose_has_no_password() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for name in ("PULP_SECRET_KEY", "POSTGRES_PASSWORD", "S3_SECRET_KEY"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", manifests())
def test_kubernetes_manifest_is_valid(name: str, version: str) -> None:
    kubernetes_validate.validate(manifests()[name], version, strict=True)


def test_kubernetes_schema_finds_a_fault() -> None:
    faulty = copy.deepcopy(manifests()["pulp.yaml"])
    faulty["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(faulty, VERSIONS[0], strict=True)


def pod(name: str) -> dict[str, Any]:
    """Return the pod template of a manifest."""
    template: dict[str, Any] = manifests()[name]["spec"]["template"]
    return template


def test_kustomization_names_all_manifests() -> None:
    assert sorted(kustomization()["resources"]) == sorted(manifests())


def test_kubernetes_selectors_and_references_agree() -> None:
    found = manifests()
    labels = pod("pulp.yaml")["metadata"]["labels"]
    for selector in (
        found["service.yaml"]["spec"]["selector"],
        found["disruption.yaml"]["spec"]["selector"]["matchLabels"],
        found["pulp.yaml"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        for other in ("worker.yaml", "migration.yaml"):
            assert not selector.items() <= pod(other)["metadata"]["labels"].items()
    target = found["autoscaling.yaml"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (
        "Deployment",
        found["pulp.yaml"]["metadata"]["name"],
    )
    assert "replicas" not in found["pulp.yaml"]["spec"], "the autoscaler sets it"
    (generated,) = kustomization()["configMapGenerator"]
    for name in ("pulp.yaml", "worker.yaml", "migration.yaml"):
        spec = pod(name)["spec"]
        (container,) = spec["containers"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        config, secret = container["envFrom"]
        assert config["configMapRef"]["name"] == generated["name"]
        assert secret["secretRef"]["name"] == "pulp-secrets"
        assert spec["securityContext"]["runAsNonRoot"]


def test_kubernetes_pod_drains_before_it_is_killed() -> None:
    spec = pod("pulp.yaml")["spec"]
    (container,) = spec["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > pause + DRAIN
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    assert container["readinessProbe"]["httpGet"]["path"].endswith("/readyz")
    assert container["livenessProbe"]["httpGet"]["path"].endswith("/livez")
    # Its own deadline is five seconds (middleware/health.py).
    assert container["readinessProbe"]["timeoutSeconds"] > 5


def test_kubernetes_and_compose_have_the_same_settings() -> None:
    """Those that are not of the network or secret."""
    (generated,) = kustomization()["configMapGenerator"]
    names = {literal.partition("=")[0] for literal in generated["literals"]}
    environment = set(compose()["services"]["pulp-1"]["environment"])
    secret = {
        "PULP_SECRET_KEY",
        "PULP_DATABASES__default__PASSWORD",
        "PULP_STORAGES__default__OPTIONS__access_key",
        "PULP_STORAGES__default__OPTIONS__secret_key",
    }
    of_the_store = {
        "PULP_REDIRECT_TO_OBJECT_STORAGE",
        "PULP_STORAGES__default__OPTIONS__endpoint_url",
        "PULP_STORAGES__default__OPTIONS__addressing_style",
    }
    assert environment - names == secret | of_the_store
    assert names <= environment
