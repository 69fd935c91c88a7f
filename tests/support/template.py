"""Copies of a prepared state directory: to make a new one takes 20 s of CPU, mostly migrations.

The processes of a parallel run share one, so they have the same secrets.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pulpcore.content_star.cli.state import State
from tests.support.cluster import cluster
from tests.support.instance import Instance

VARIABLE = "PULP_STAR_TEST_TEMPLATE"

RUN_VARIABLE = "PULP_STAR_TEST_RUN"
"""The state directory of the process that has started the other ones of a parallel run."""


def copy_template(home: Path) -> bool:
    """Copy the state directory named by `PULP_STAR_TEST_TEMPLATE`, and return whether there is one.

    The template is a stopped Pulp that `pulp-star up` has made; without migrations, a start takes
    five seconds. Owners are kept, since PostgreSQL's files do not belong to root.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return False
    template = Path(name)
    shutil.copytree(template, home, symlinks=True, dirs_exist_ok=True)
    for path in (template, *template.rglob("*")):
        status = path.lstat()
        os.chown(home / path.relative_to(template), status.st_uid, status.st_gid)
    return True


def share_secrets(state: State) -> None:
    """Give `state` the secrets of the run, which Django reads before there is a template."""
    if "PYTEST_XDIST_WORKER" not in os.environ or RUN_VARIABLE not in os.environ:
        os.environ[RUN_VARIABLE] = str(state.home)
        return
    run = State(Path(os.environ[RUN_VARIABLE]))
    for path in (run.encryption_key, run.settings, run.password_file):
        shutil.copy2(path, state.home / path.name)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait while another process of the run makes the template."""
    if RUN_VARIABLE not in os.environ:  # there is one
        yield
        return
    with Path(f"{os.environ[RUN_VARIABLE]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def use_template(home: Path) -> bool:
    """Copy the run's template to a directory that has secrets only; return whether there is one."""
    if VARIABLE in os.environ:
        return True  # it was copied before Django read the settings
    template = _template()
    if not template.exists():
        return False
    os.environ[VARIABLE] = str(template)
    return copy_template(home)


def make_template(instance: Instance) -> None:
    """Make the run's template of an instance that has just started.

    Django has to be connected to its database.
    """
    template = _template()
    shutil.copytree(instance.home, template, ignore=shutil.ignore_patterns("database"))
    with cluster() as copy:
        (copy.data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # of the running server's socket
        copy.data.rename(template / "database")
    os.environ[VARIABLE] = str(template)


def _template() -> Path:
    return Path(os.environ[RUN_VARIABLE]).with_name("template")
