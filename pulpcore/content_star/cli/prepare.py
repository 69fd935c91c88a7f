"""Preparation of a state directory: migrations, static files, and the user `admin`."""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path

from pulpcore.content_star.cli import trust
from pulpcore.content_star.cli.processes import OWNER_VARIABLE, Supervisor, program
from pulpcore.content_star.cli.state import Instance, State, replace

_MIGRATE = """\
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
executor = MigrationExecutor(connection)
plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
print("Planned:", len(plan), flush=True)
call_command("migrate", interactive=False, skip_checks=False)
"""
"""The command `migrate`, after printing the number of migrations for the progress line."""

_CREATE_ADMIN = """\
from django.contrib.auth import get_user_model
user, _ = get_user_model().objects.get_or_create(
    username="admin", defaults={"is_superuser": True, "is_staff": True}
)
user.set_password(password)
user.save()
"""


class Preparation:
    """Runs Pulp's management commands, and records the versions and settings they were run for."""

    def __init__(self, state: State, supervisor: Supervisor, environ: Mapping[str, str]) -> None:
        self.state = state
        self.supervisor = supervisor
        self.environ = environ
        self.basis = installed() + settings_digest(state, environ)

    def migrate(self) -> None:
        """Apply the migrations of the installed versions.

        Pulp then copies settings into the default domain, such as the storage.
        """
        self._manage("migrate", "shell", stdin=_MIGRATE.encode())
        self.remember("migrate")

    def migrations_done(self) -> str:
        """Return the progress of a running `migrate`, as in `3 of 10`."""
        try:
            log = (self.state.logs / "migrate.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        planned = re.search(r"^Planned: (\d+)$", log, re.MULTILINE)
        return f"{log.count('... OK')} of {planned[1]}" if planned else ""

    def collect_static(self) -> None:
        """Collect the static files of the API's pages."""
        self._manage("collectstatic", "collectstatic", "--noinput", "--verbosity=0")
        self.remember("collectstatic")

    def create_admin(self) -> None:
        """Create the user `admin` with the password of the password file."""
        self.set_password(self.state.password)
        self.remember("admin")

    def set_password(self, password: str) -> None:
        """Create the user `admin` if needed, and set its password."""
        # On standard input, because all users of the machine can read arguments.
        code = f"password = {password!r}\n{_CREATE_ADMIN}"
        self._manage("admin", "shell", stdin=code.encode())

    def was_done(self, name: str) -> bool:
        """Return whether a preparation was done, with any versions and settings."""
        return (self.state.done / name).exists()

    def is_current(self, name: str) -> bool:
        """Return whether a preparation was done for the installed versions and the settings."""
        return self.was_done(name) and (self.state.done / name).read_text() == self._done(name)

    def remember(self, name: str) -> None:
        """Record that a preparation is done for the installed versions and the settings."""
        replace(self.state.done / name, self._done(name))

    def _done(self, name: str) -> str:
        return self.basis + static_digest() if name == "collectstatic" else self.basis

    def _manage(self, name: str, *arguments: str, stdin: bytes = b"") -> None:
        command: list[str | Path] = [program("pulpcore-manager"), *arguments]
        self.supervisor.run(name, command, self.environ, self.state.working_directory, stdin)


def process_environ(state: State, instance: Instance) -> dict[str, str]:
    """Return the current environment, with Pulp's settings replaced by those of this state."""
    pulp_variables = state.environ(instance)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.split("__")[0] not in pulp_variables
    }
    python = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    return {**inherited, **pulp_variables, **python, OWNER_VARIABLE: str(state.home)}


def installed() -> str:
    """Return the versions of Pulp and its plugins as JSON, with a digest of their migrations.

    The version of an editable installation does not change with its migrations.
    """
    plugins = entry_points(group="pulpcore.plugin")
    versions = {point.dist.name: point.dist.version for point in plugins if point.dist}
    versions["pulpcore"] = version("pulpcore")
    names = sorted(name for point in plugins for name in _migrations(point.module))
    versions["migrations"] = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return json.dumps(versions, sort_keys=True, indent=2) + "\n"


def settings_digest(state: State, environ: Mapping[str, str]) -> str:
    """Return a digest of the settings file and the PULP_... variables.

    Those that `up` sets itself are left out, since they change with its port, and those of the
    command (PULP_STAR_...), which are no settings.
    """
    own = state.environ(Instance("localhost", 0, ""))
    variables = {
        name: value
        for name, value in environ.items()
        if name.startswith("PULP_") and not name.startswith("PULP_STAR_") and name not in own
    }
    text = trust.read_text(state.settings) + json.dumps(variables, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() + "\n"


def static_digest() -> str:
    """Return a digest of our static files, which an editable installation may change."""
    folder = Path(__file__).parent.parent / "app" / "static"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _migrations(module: str) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(location).glob("app/migrations/*.py"):
            yield f"{module}/{path.name}"
