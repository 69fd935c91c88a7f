"""Copies of a prepared state directory: to make a new one takes 20 s of CPU, mostly migrations."""

import os
import shutil
from pathlib import Path

from tests.support.cluster import cluster
from tests.support.instance import Instance

VARIABLE = "PULP_STAR_TEST_TEMPLATE"


def copy_template(home: Path) -> bool:
    """Copy the state directory named by `PULP_STAR_TEST_TEMPLATE`, and return whether there is one.

    The template is a stopped Pulp that `pulp-star up` has made; without migrations, a start takes
    five seconds. Owners are kept, since PostgreSQL's files do not belong to root.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return False
    template = Path(name)
    shutil.copytree(template, home, symlinks=True)
    for path in (template, *template.rglob("*")):
        status = path.lstat()
        os.chown(home / path.relative_to(template), status.st_uid, status.st_gid)
    return True


def make_template(instance: Instance) -> None:
    """Make a template of an instance that has just started, unless there is one.

    Django has to be connected to its database.
    """
    if VARIABLE in os.environ:
        return
    template = instance.home.with_name("template")
    shutil.copytree(instance.home, template, ignore=shutil.ignore_patterns("database"))
    with cluster() as copy:
        (copy.data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # of the running server's socket
        copy.data.rename(template / "database")
    os.environ[VARIABLE] = str(template)
