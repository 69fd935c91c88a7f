"""Contents of deploy/: instructions of the Containerfile, services of compose.yaml, manifests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
VALUES = {
    "PULP_SECRET_KEY": "secret-of-django",
    "POSTGRES_PASSWORD": "secret-of-postgres",
    "S3_SECRET_KEY": "secret-of-s3",
}


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the instructions of the Containerfile, with the lines of each joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.M)
    for line in text.replace("\\\n", "").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


def command() -> list[str]:
    """Return the command of the image."""
    return [str(word) for word in json.loads(dict(instructions())["CMD"])]


def health_command() -> list[str]:
    """Return the command of the image's health check."""
    (words,) = re.findall(r"CMD (\[.*\])$", dict(instructions())["HEALTHCHECK"])
    return [str(word) for word in json.loads(words)]


def compose() -> dict[str, Any]:
    """Return compose.yaml with the values of its variables and its anchors resolved."""

    def value(match: re.Match[str]) -> str:
        return VALUES.get(match[1], match[3] if match[2] == "-" else "")

    text = (DEPLOY / "compose.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text))
    return found


def manifests() -> dict[str, dict[str, Any]]:
    """Return the manifests of deploy/kubernetes by file name, without the kustomization."""
    return {
        path.name: yaml.safe_load(path.read_text())
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        if path.name != "kustomization.yaml"
    }


def kustomization() -> dict[str, Any]:
    """Return the kustomization of deploy/kubernetes."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    return found
