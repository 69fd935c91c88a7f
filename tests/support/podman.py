"""Podman: builds deploy/Containerfile and runs the services of deploy/ from the image."""

import ast
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from tests.support.instance import wait_until

UNIFIED = Path("/sys/fs/cgroup/unified")
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
SUITE = "bookworm"
LIMIT = 1 << 14
"""Of open files, and of processes."""

# The hierarchy of cgroup v2 beside those of v1, which crun refuses: unmounted for podman alone.
_WITHOUT_UNIFIED = ["unshare", "--mount", "sh", "-c", f'umount {UNIFIED} && exec "$@"', "sh"]


@dataclass
class Run:
    """Options, environment and command of a container."""

    command: list[str]
    environ: Mapping[str, str]
    options: list[str] = field(default_factory=list)
    """Of `podman run`."""

    def arguments(self, image: str, **changes: str) -> list[str]:
        """Return the arguments of `podman run`, on the machine's network, without any capability.

        As crun refuses limits above those of the machine, and cgroups that nothing has prepared.
        """
        environ = {**self.environ, **changes}
        return [
            *("run", "--network", "host", "--cgroups", "disabled", *limits()),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges", *self.options),
            *(word for name, value in environ.items() for word in ("--env", f"{name}={value}")),
            *(image, *self.command),
        ]


class Container:
    """A container that runs in the background."""

    def __init__(self, name: str) -> None:
        self.name = name

    def logs(self) -> str:
        """Return the output so far."""
        completed = podman("logs", self.name)
        return completed.stdout + completed.stderr

    def exec(self, *command: str) -> str:
        """Run a command in the container, and return its output."""
        return podman("exec", self.name, *command).stdout

    def is_healthy(self) -> bool:
        """Run the health check."""
        return podman("healthcheck", "run", self.name, check=False).returncode == 0

    def signal(self, name: str) -> None:
        """Send a signal to the first process."""
        podman("kill", "--signal", name, self.name)

    def inspect(self, template: str) -> str:
        """Return a part of what podman knows about the container."""
        return podman("container", "inspect", "--format", template, self.name).stdout.strip()

    def wait(self) -> int:
        """Wait until the container has ended, and return its exit code."""
        wait_until(lambda: self.inspect("{{.State.Running}}") == "false", explain=self.logs)
        return int(self.inspect("{{.State.ExitCode}}"))


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman, and return its result and its output."""
    prefix = _WITHOUT_UNIFIED if UNIFIED.is_mount() else []
    completed = subprocess.run(
        [*prefix, "podman", "--cgroup-manager", "cgroupfs", *arguments],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    if check and completed.returncode:
        output = completed.stdout[-10_000:] + completed.stderr[-10_000:]
        raise AssertionError(f"podman {arguments[0]}: {output}")
    return completed


@contextmanager
def container(run: Run, image: str, **changes: str) -> Iterator[Container]:
    """Run a container in the background, and remove it in the end."""
    name = f"pulp-star-test-{uuid4().hex[:8]}"
    command = run.arguments(image, **changes)
    podman(command[0], "--detach", "--name", name, *command[1:])
    try:
        yield Container(name)
    finally:
        podman("rm", "--force", "--volumes", "--time", "1", name)


def run_once(run: Run, image: str, **changes: str) -> str:
    """Run a container to its end, and return its output."""
    command = run.arguments(image, **changes)
    return podman(command[0], "--rm", *command[1:]).stdout


def limits() -> list[str]:
    """Return options for limits that this machine allows; podman's default is a million each."""
    options = []
    for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        _, hard = resource.getrlimit(number)
        limit = LIMIT if hard == resource.RLIM_INFINITY else min(hard, LIMIT)
        options += ["--ulimit", f"{name}={limit}:{limit}"]
    return options


def has_image(name: str) -> bool:
    """Return whether podman has an image."""
    return podman("image", "exists", name, check=False).returncode == 0


def import_debian(name: str) -> None:
    """Make an image of Debian with its own Python, from packages."""
    with tempfile.TemporaryDirectory() as folder:
        root, archive = Path(folder, "root"), Path(folder, "root.tar")
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        for command in (bootstrap, ["tar", "-C", str(root), "-cf", str(archive), "."]):
            completed = subprocess.run(command, capture_output=True, text=True, timeout=1500)
            assert completed.returncode == 0, completed.stdout[-5000:] + completed.stderr
        podman("import", "--change", "ENV LANG=C.UTF-8", str(archive), name)


def build(image: str, base: str, checkout: Path) -> None:
    """Build deploy/Containerfile as docs/deploying.md says."""
    with tempfile.TemporaryDirectory() as folder:
        podman(
            *("build", "--format", "docker", "--layers=false", "--network", "host", *limits()),
            *_mounted_pip_configuration(Path(folder)),
            *("--build-arg", f"BASE={base}", "--file", str(checkout / "deploy/Containerfile")),
            *("--tag", image, str(checkout)),
        )


def _mounted_pip_configuration(folder: Path) -> Iterable[str]:
    """Return mounts of a build that have pip use this machine's index, proxy and certificates."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    known = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        known[name.rpartition(".")[2]] = ast.literal_eval(value)
    kept = {
        name: known[name]
        for name in ("index-url", "proxy", "trusted-host", "cert")
        if known.get(name)
    }
    if certificates := kept.get("cert"):
        kept["cert"] = "/etc/pip-certificates.pem"
        yield from ("--volume", f"{os.path.realpath(certificates)}:{kept['cert']}:ro")
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{name} = {kept[name]}" for name in kept), ""]))
    yield from ("--volume", f"{file}:/etc/pip.conf:ro")
