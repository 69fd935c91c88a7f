"""What has to be done once per version of the software: migrations, static files, the admin."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path

from pulpcore.content_star.cli.processes import Supervisor, program
from pulpcore.content_star.cli.state import State, replace

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
        self._manage("migrate", "migrate", "--noinput")
        self.remember("migrate")

    def collect_static(self) -> None:
        """Gather the files of the API's pages."""
        self._manage("collectstatic", "collectstatic", "--noinput", "--verbosity=0")
        self.remember("collectstatic")

    def create_admin(self) -> None:
        """Give the user `admin` the password of the password file."""
        # On standard input, because everybody on the machine can read arguments.
        code = f"password = {self.state.password!r}\n{_CREATE_ADMIN}"
        self._manage("admin", "shell", stdin=code.encode())
        self.remember("admin")

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
