"""What has to be done once per version of the software: migrations, static files, the admin."""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path

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
"""The command `migrate`, with the number of migrations first: it does not say that itself."""

_CREATE_ADMIN = """\
from django.contrib.auth import get_user_model
user, _ = get_user_model().objects.get_or_create(
    username="admin", defaults={"is_superuser": True, "is_staff": True}
)
user.set_password(password)
user.save()
"""


class Preparation:
    """Runs Pulp's management commands, and remembers for which versions they are done."""

    def __init__(self, state: State, supervisor: Supervisor, environ: Mapping[str, str]) -> None:
        self.state = state
        self.supervisor = supervisor
        self.environ = environ
        self.installed = installed()

    def migrate(self) -> None:
        """Bring the database to the installed versions."""
        self._manage("migrate", "shell", stdin=_MIGRATE.encode())
        self.remember("migrate")

    def migrations_done(self) -> str:
        """Say how many migrations are applied, and of how many, while `migrate` runs."""
        try:
            log = (self.state.logs / "migrate.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        planned = re.search(r"^Planned: (\d+)$", log, re.MULTILINE)
        return f"{log.count('... OK')} of {planned[1]}" if planned else ""

    def collect_static(self) -> None:
        """Gather the files of the API's pages."""
        self._manage("collectstatic", "collectstatic", "--noinput", "--verbosity=0")
        self.remember("collectstatic")

    def create_admin(self) -> None:
        """Give the user `admin` the password of the password file."""
        self.set_password(self.state.password)
        self.remember("admin")

    def set_password(self, password: str) -> None:
        """Make sure that there is a user `admin`, and that this is its password."""
        # On standard input, because everybody on the machine can read arguments.
        code = f"password = {password!r}\n{_CREATE_ADMIN}"
        self._manage("admin", "shell", stdin=code.encode())

    def was_done(self, what: str) -> bool:
        """Whether `what` was ever done."""
        return (self.state.done / what).exists()

    def is_current(self, what: str) -> bool:
        """Whether `what` was done for the versions that are installed now."""
        return self.was_done(what) and (self.state.done / what).read_text() == self.installed

    def remember(self, what: str) -> None:
        """Remember that `what` is done for the versions that are installed now."""
        replace(self.state.done / what, self.installed)

    def _manage(self, name: str, *arguments: str, stdin: bytes = b"") -> None:
        command: list[str | Path] = [program("pulpcore-manager"), *arguments]
        self.supervisor.run(name, command, self.environ, self.state.working_directory, stdin)


def process_environ(state: State, instance: Instance) -> dict[str, str]:
    """Our own environment, with Pulp's settings for this state instead of any others."""
    ours = state.environ(instance)
    inherited = {
        name: value for name, value in os.environ.items() if name.split("__")[0] not in ours
    }
    python = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    return {**inherited, **ours, **python, OWNER_VARIABLE: str(state.home)}


def installed() -> str:
    """The versions of Pulp and its plugins, and a digest of their migrations.

    The digest is for plugins that are installed to be worked on: their versions stand still.
    """
    plugins = entry_points(group="pulpcore.plugin")
    versions = {point.dist.name: point.dist.version for point in plugins if point.dist}
    versions["pulpcore"] = version("pulpcore")
    names = sorted(name for point in plugins for name in _migrations(point.module))
    versions["migrations"] = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return json.dumps(versions, sort_keys=True, indent=2) + "\n"


def _migrations(module: str) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(location).glob("app/migrations/*.py"):
            yield f"{module}/{path.name}"
