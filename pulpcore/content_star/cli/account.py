"""The system account of PostgreSQL: the current user, or one of its own for root.

The server refuses to run as root. Its account reads below a private home directory with the
capability CAP_DAC_READ_SEARCH, where root has that one; root in a container has not.
"""

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import click

ACCOUNT = "embedded_postgres"
"""The account that root runs PostgreSQL as."""

# Bits of capability sets (capabilities(7)).
_DAC_READ_SEARCH = 2
_SETPCAP = 8


def database_user() -> str:
    """Return the name of the user that PostgreSQL runs as."""
    if os.geteuid() == 0:
        return ACCOUNT
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise click.ClickException(
            f"PostgreSQL does not run as a user without a name, and the user id {os.geteuid()} "
            "has none: add it to /etc/passwd, or run pulp-star as another user."
        ) from None


def database_uid() -> int:
    """Return the user id of the database's files."""
    try:
        return pwd.getpwnam(database_user()).pw_uid
    except KeyError:  # no account yet, and so no database
        return os.geteuid()


def as_account(on_our_death: str = "KILL") -> list[str]:
    """Return a command prefix that runs a command as PostgreSQL's account, empty unless root.

    With the capability CAP_DAC_READ_SEARCH if there is one, since the state directory and the
    virtual environment are often below a private /root, whose permissions must not be changed.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise click.ClickException(
            "PostgreSQL does not run as root, and `setpriv` (util-linux) is not installed: "
            "install it, or run pulp-star as another user."
        )
    account = _account()
    return [
        setpriv,
        *(f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"),
        *_capabilities(),
        f"--pdeathsig={on_our_death}",  # changing the user clears the parent death signal
        "--",
    ]


def home_mode() -> int:
    """Return the mode of the state directory, through which the account reaches the database."""
    is_reached = os.geteuid() != 0 or _has(_DAC_READ_SEARCH)
    return 0o700 if is_reached else 0o711


def give_to_account(directory: Path) -> None:
    """Make the account the owner of a directory, if root runs this."""
    if os.geteuid() == 0:
        account = _account()
        os.chown(directory, account.pw_uid, account.pw_gid)


def check_access(*paths: Path) -> None:
    """Check that the account can execute programs and search directories.

    Raises:
        click.ClickException: with the directory that it cannot enter, and what to do.
    """
    prefix = as_account()
    if not prefix:
        return
    for path in paths:
        if not _executes(prefix, path):
            closed = next(above for above in _downwards(path) if not _executes(prefix, above))
            raise click.ClickException(
                f"PostgreSQL runs as the user {ACCOUNT}, who cannot enter {closed}, and needs "
                f"{path}: chmod o+x {closed}, or run pulp-star as another user than root."
            )


def _downwards(path: Path) -> list[Path]:
    return [*reversed(path.parents), path]


def _executes(prefix: list[str], path: Path) -> bool:
    command = [*prefix, "test", "-x", str(path)]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - no shell


def _capabilities() -> list[str]:
    """Return the options of setpriv that give the account one capability, or none.

    PostgreSQL finds its programs with access(2), which ignores the capabilities of other users than
    root unless SECBIT_NO_SETUID_FIXUP is set.
    """
    if not _has(_DAC_READ_SEARCH):
        return ["--inh-caps=-all"]
    capability = "-all,+dac_read_search"
    fixup = ["--securebits=+no_setuid_fixup"] if _has(_SETPCAP) else []
    return [f"--inh-caps={capability}", f"--ambient-caps={capability}", *fixup]


def _has(capability: int) -> bool:
    """Return whether this process has a capability; False on systems without them."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    mask = re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) >> capability & 1)


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", ACCOUNT]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - constant
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(
            f"PostgreSQL does not run as root, and its account {ACCOUNT} cannot be made: {error}"
        ) from error
    return pwd.getpwnam(ACCOUNT)
