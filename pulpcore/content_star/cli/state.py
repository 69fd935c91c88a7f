"""The state directory of one Pulp: database, keys, settings, files and logs."""

import base64
import fcntl
import json
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from pulpcore.content_star.cli import trust
from pulpcore.content_star.cli.account import database_uid, home_mode

DATABASE = "pulp"
"""Name of the database and of its owner."""

SETTINGS_TEMPLATE = """\
# Settings of this Pulp alone: add your own below. The PULP_... variables that `pulp-star up` and
# `pulp-star env` set (paths, database, CONTENT_ORIGIN) override settings in this file.
SECRET_KEY = {secret_key!r}
ANALYTICS = False
"""


class NotCreated(click.ClickException):
    """There is no Pulp in the state directory yet."""


@dataclass(frozen=True)
class Instance:
    """Address of the Pulp of a state directory, as last started."""

    host: str
    port: int
    socket_dir: str

    @property
    def url(self) -> str:
        """Origin at which a client on this machine reaches Pulp."""
        return f"http://{_bracketed(self.reachable_host)}:{self.port}"

    @property
    def reachable_host(self) -> str:
        """An address to connect to; a wildcard is only one to listen on."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104

    @property
    def listens_everywhere(self) -> bool:
        """Return whether it listens on a wildcard address, so that its host name is unknown."""
        return self.reachable_host != self.host


@dataclass(frozen=True)
class State:
    """One state directory, by absolute path."""

    home: Path

    @property
    def database(self) -> Path:
        """PostgreSQL's data directory."""
        return self.home / "database"

    @property
    def logs(self) -> Path:
        """Output of the processes that `up` starts, one file each."""
        return self.home / "logs"

    @property
    def media(self) -> Path:
        """Artifacts: the bytes of all content."""
        return self.home / "media"

    @property
    def working_directory(self) -> Path:
        """Scratch space of tasks and uploads."""
        return self.home / "tmp"

    @property
    def static(self) -> Path:
        """Style sheets and scripts of the API's pages."""
        return self.home / "assets"

    @property
    def settings(self) -> Path:
        """The settings file; naming it keeps a machine-wide /etc/pulp/settings.py out."""
        return self.home / "settings.py"

    @property
    def encryption_key(self) -> Path:
        """Fernet key of the encrypted database fields."""
        return self.home / "database_fields.symmetric.key"

    @property
    def password_file(self) -> Path:
        """Password of the user `admin`."""
        return self.home / "admin-password"

    @property
    def lock(self) -> Path:
        """Locked by a running `up`; its presence also marks a state directory."""
        return self.home / "lock"

    @property
    def instance_file(self) -> Path:
        """The `Instance` that was started last."""
        return self.home / "instance.json"

    @property
    def reload_file(self) -> Path:
        """The outcome of the last `pulp-star reload`."""
        return self.home / "reload.json"

    @property
    def cache(self) -> Path:
        """Cache of the API schema."""
        return self.home / "cache"

    @property
    def done(self) -> Path:
        """Completed preparations of the database, one file each."""
        return self.home / "done"

    @property
    def password(self) -> str:
        """Password of the user `admin`."""
        return trust.read_text(self.password_file).strip()

    @property
    def pulp_cli_config(self) -> Path:
        """A configuration file of `pulp-cli`, with address and password."""
        return self.home / "pulp-cli.toml"

    def create(self) -> None:
        """Create missing directories and secrets; existing ones are not changed.

        Raises:
            click.ClickException: the directory cannot be written, or another user could change it.
        """
        self._check_is_directory()
        try:
            self._claim()
            for directory in (
                self.logs,
                self.done,
                self.media,
                self.working_directory,
                self.static,
            ):
                directory.mkdir(mode=0o700, exist_ok=True)
            write_once(self.encryption_key, _fernet_key)
            write_once(self.settings, _settings)
            write_once(self.password_file, new_password)
        except OSError as error:
            raise click.ClickException(
                f"The state directory {self.home} cannot be written: {error.strerror}"
            ) from error

    def check(self) -> None:
        """Check that this is a state directory, and that no other user can change its files.

        Raises:
            NotCreated: it does not exist, or is empty.
            click.ClickException: with the file, the reason, and what to do.
        """
        self._check_is_directory()
        try:
            trust.check_parents(self.home)
            self._check_is_state()
            self._check_home()
            if not self.lock.exists():
                raise FileNotFoundError
        except FileNotFoundError:
            raise self._not_created() from None
        except OSError as error:
            raise click.ClickException(
                f"The state directory {self.home} cannot be read: {error.strerror}"
            ) from error

    @property
    def up_command(self) -> str:
        """The shell command that starts this Pulp."""
        with suppress(OSError, RuntimeError):  # it cannot be resolved
            if self == _state(default_home()):
                return "pulp-star up"
        return f"pulp-star up --home {shlex.quote(str(self.home))}"

    def _not_created(self) -> NotCreated:
        return NotCreated(
            f"There is no Pulp in {self.home} yet: start one with `{self.up_command}`."
        )

    def _check_is_directory(self) -> None:
        # A link is refused with the other checks; a path that cannot be read, with its reason.
        with suppress(OSError):
            mode = self.home.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise click.ClickException(
                    f"{self.home} is a file, not a directory: choose a directory with --home."
                )

    def _check_is_state(self) -> None:
        """Check that a directory with entries has the mark of a state directory."""
        if self.home.is_symlink():
            return  # refused by `_check_home`
        names = os.listdir(self.home)  # noqa: PTH208 - names alone
        if names and self.lock.name not in names:
            raise click.ClickException(f"{self.home} is not a state directory of pulp-star.")

    def _claim(self) -> None:
        """Create the directory, or check that an existing one is a trusted state directory."""
        if re.search(r"[,;\n]", str(self.home)):
            # dynaconf would read PULP_SETTINGS as several files.
            raise click.ClickException(f"A state directory cannot have , or ; in it: {self.home}")
        trust.check_parents(self.home)
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with trust.directory_opened(self.home) as home:
            names = os.listdir(home)  # noqa: PTH208 - of a descriptor, not a path
            if names and self.lock.name not in names:
                raise click.ClickException(
                    f"{self.home} holds other files: choose an empty directory with --home."
                )
            self._check_home()
            os.fchmod(home, home_mode())
        with trust.file_opened(self.lock, os.O_RDWR | os.O_CREAT):
            pass

    def _check_home(self) -> None:
        owner = database_uid()
        nested = (self.logs.name, self.done.name)
        trust.check_entries(self.home, {"database": owner, "database.new": owner}, nested)
        for secret in (
            self.settings,
            self.encryption_key,
            self.password_file,
            self.pulp_cli_config,
            self.instance_file,
        ):
            with suppress(FileNotFoundError), trust.file_opened(secret):
                pass  # opening restricts its permissions

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the state directory during the block; the lock ends with the process."""
        with trust.file_opened(self.lock, os.O_RDWR) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise click.ClickException(
                    f"Another `pulp-star up` (pid {os.read(lock, 20).decode() or 'unknown'}) "
                    f"already runs on {self.home}."
                ) from None
            os.truncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())
            yield

    def is_running(self) -> bool:
        """Return whether an `up` holds the lock."""
        with trust.file_opened(self.lock) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def lock_pid(self) -> str:
        """Return the process id of the `up` that holds the lock, or held it last."""
        return trust.read_text(self.lock) or "unknown"

    def save(self, instance: Instance) -> None:
        """Write the address of the instance."""
        replace(self.instance_file, json.dumps(asdict(instance)))

    def save_reload(self, problem: str) -> None:
        """Write the outcome of a reload, with its problem or an empty string."""
        replace(self.reload_file, json.dumps({"id": secrets.token_hex(8), "problem": problem}))

    def load_reload(self) -> dict[str, str]:
        """Return the outcome of the last reload: a random `id` and `problem`, "" for success."""
        try:
            reload: dict[str, str] = json.loads(trust.read_text(self.reload_file))
        except FileNotFoundError:
            return {}
        return reload

    def load(self) -> Instance:
        """Return the address of the Pulp of this directory.

        Raises:
            NotCreated: there is none yet, and no `up` runs that creates it.
            click.ClickException: an `up` is creating it, or another user could change it.
        """
        self.check()
        try:
            instance = Instance(**json.loads(trust.read_text(self.instance_file)))
            # It may be in /tmp, where other users can recreate it after its removal.
            with suppress(FileNotFoundError):
                trust.check_owner(Path(instance.socket_dir), database_uid())
            return instance
        except FileNotFoundError:
            if not self.is_running():
                raise self._not_created() from None
            raise click.ClickException(
                f"There is no Pulp in {self.home} yet: `pulp-star up` is creating it."
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise click.ClickException(f"{self.instance_file} cannot be read: {error}") from error

    def write_pulp_cli_config(self, instance: Instance) -> None:
        """Write the configuration of pulp-cli for the user admin."""
        values = {"base_url": instance.url, "username": "admin", "password": self.password}
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items()]
        replace(self.pulp_cli_config, "".join(["[cli]\n", *lines]))

    def environ(self, instance: Instance) -> dict[str, str]:
        """Return the environment variables of Pulp's settings for this state."""
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": DATABASE,
            "USER": DATABASE,
            "HOST": instance.socket_dir,
        }
        variables = {
            "DJANGO_SETTINGS_MODULE": "pulpcore.app.settings",
            "PULP_SETTINGS": str(self.settings),
            "PULP_DATABASES": "@json " + json.dumps({"default": database}),
            "PULP_DB_ENCRYPTION_KEY": str(self.encryption_key),
            "PULP_MEDIA_ROOT": str(self.media),
            "PULP_STATIC_ROOT": str(self.static),
            "PULP_WORKING_DIRECTORY": str(self.working_directory),
            "PULP_FILE_UPLOAD_TEMP_DIR": str(self.working_directory),
            "PULP_CONTENT_STAR_REDIRECT_ROOT": "true",
        }
        if not instance.listens_everywhere:
            variables["PULP_CONTENT_ORIGIN"] = instance.url
        return variables


def default_home() -> Path:
    """Return the state directory without --home."""
    return Path(os.environ.get("PULP_STAR_HOME") or ".pulp-star")


def _state(home: Path) -> State:
    path = home.expanduser().absolute()
    return State(path if path.is_symlink() else path.resolve())


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --home to a command, which gets a `state`."""

    def to_state(context: click.Context, parameter: click.Parameter, value: Path | None) -> State:
        return _state(value or default_home())

    return click.option(
        "--home",
        "state",
        type=click.Path(path_type=Path),
        callback=to_state,
        metavar="DIRECTORY",
        help="The state directory.  [default: PULP_STAR_HOME, or ./.pulp-star]",
    )(command)


def write_once(path: Path, make: Callable[[], str]) -> None:
    """Write the result of `make` to a private file unless it exists."""
    if not path.exists():
        replace(path, make())


def replace(path: Path, text: str) -> None:
    """Write a private file atomically."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with trust.create(new) as file:
        file.write(text.encode())
    new.rename(path)


def new_password() -> str:
    """Return a random password."""
    return secrets.token_urlsafe(15)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def _settings() -> str:
    return SETTINGS_TEMPLATE.format(secret_key=secrets.token_urlsafe(50))


def _bracketed(host: str) -> str:
    return f"[{host}]" if re.search(":", host) else host
