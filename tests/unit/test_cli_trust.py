"""A state directory is used only if no other user can change it, or what it leads to."""

import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from pulpcore.content_star.cli.state import Instance, State

OTHER_USER = 65534
TRUSTED = [
    "lock",
    "settings.py",
    "database_fields.symmetric.key",
    "admin-password",
    "instance.json",
    "database",
    "logs",
    "done",
    "media",
    "tmp",
    "assets",
    "logs/uvicorn.log",
    "done/migrate",
]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory as `up` leaves it, but for the database."""
    state = State(tmp_path / "parent" / "home")
    state.home.parent.mkdir()
    state.create()
    state.save(Instance("127.0.0.1", 80, str(state.database)))
    (state.logs / "uvicorn.log").write_text("log")
    (state.done / "migrate").write_text("versions")
    return state


def refused(state: State, path: Path, reason: str) -> None:
    """Both a start and the commands that read the directory refuse it, and name the path."""
    for use in (state.create, state.load):
        with pytest.raises(click.ClickException) as caught:
            use()
        assert caught.value.message.startswith(f"{path} cannot be trusted, because it {reason}")
        assert len(caught.value.message.splitlines()) == 1


def test_own_state_directory_is_trusted(state: State) -> None:
    state.create()
    assert state.load().port == 80


def test_symlinked_lock_is_refused_and_its_target_not_truncated(
    state: State, tmp_path: Path
) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    state.lock.unlink()
    state.lock.symlink_to(target)

    refused(state, state.lock, "is a symbolic link")
    with pytest.raises(click.ClickException, match="is a symbolic link"), state.locked():
        pass

    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", TRUSTED)
def test_symlink_in_the_state_directory_is_refused(state: State, tmp_path: Path, name: str) -> None:
    path = state.home / name
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    refused(state, path, "is a symbolic link")


def test_dangling_symlink_for_the_lock_makes_no_file(state: State, tmp_path: Path) -> None:
    state.lock.unlink()
    state.lock.symlink_to(tmp_path / "new")
    refused(state, state.lock, "is a symbolic link")
    assert not (tmp_path / "new").exists()


def test_symlinked_state_directory_is_refused(state: State, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(state.home)
    refused(State(link), link, "is a symbolic link")


@pytest.mark.parametrize("name", ["lock", "logs"])
def test_fifo_in_the_state_directory_is_refused(state: State, tmp_path: Path, name: str) -> None:
    (state.home / name).rename(tmp_path / "moved")
    os.mkfifo(state.home / name)
    refused(state, state.home / name, "is neither a file nor a directory")


@pytest.mark.parametrize("name", [".", *(name for name in TRUSTED if name != "database")])
def test_mode_that_lets_others_write_is_refused(state: State, name: str) -> None:
    path = state.home / name
    path.chmod(0o757 if path.is_dir() else 0o646)
    refused(state, path, "can be changed by other users (mode 0")


def test_group_that_can_write_is_refused(state: State) -> None:
    others = [group for group in os.getgroups() if group != os.getgid()]
    group = OTHER_USER if os.geteuid() == 0 else (others or [None])[0]
    if group is None:
        pytest.skip("needs a second group")
    os.chown(state.settings, -1, group)
    state.settings.chmod(0o660)
    refused(state, state.settings, "can be changed by other users (mode 0660)")


@as_root
def test_private_group_that_can_write_is_trusted(state: State) -> None:
    """With a umask of 002 everything is so, and root's group is root's alone."""
    state.home.parent.chmod(0o775)
    state.home.chmod(0o775)
    state.settings.chmod(0o664)
    state.create()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_parent_that_others_can_write_to_has_to_be_sticky(state: State, mode: int) -> None:
    state.home.parent.chmod(mode)
    if mode & 0o1000:
        state.create()
    else:
        refused(state, state.home.parent, "can be changed by other users (mode 0777)")


def test_new_state_directory_is_not_made_where_others_can_replace_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(click.ClickException, match="can be changed by other users"):
        State(tmp_path / "a" / "home").create()
    assert not (tmp_path / "a").exists()


@as_root
@pytest.mark.parametrize("name", ["..", ".", *(name for name in TRUSTED if name != "database")])
def test_files_of_another_user_are_refused(state: State, name: str) -> None:
    path = state.home.parent if name == ".." else state.home / name
    os.chown(path, OTHER_USER, -1)
    refused(state, path, "belongs to ")


@as_root
def test_database_of_another_user_than_the_servers_is_refused(state: State) -> None:
    state.database.mkdir()
    os.chown(state.database, OTHER_USER, -1)
    refused(state, state.database, "belongs to ")


@as_root
def test_nothing_is_changed_in_a_directory_of_another_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "lock").touch()
    (home / "settings.py").write_text("raise SystemExit('theirs')")
    os.chown(home, OTHER_USER, OTHER_USER)

    with pytest.raises(click.ClickException, match="belongs to nobody, not to root"):
        State(home).create()

    assert {path.name for path in home.iterdir()} == {"lock", "settings.py"}
    assert home.stat().st_mode & 0o777 == 0o755


@as_root
def test_state_directory_of_another_user_names_the_user(state: State) -> None:
    os.chown(state.home, OTHER_USER, OTHER_USER)
    with pytest.raises(click.ClickException, match="belongs to nobody, not to root"):
        state.load()


@as_root
def test_socket_directory_of_another_user_is_refused(state: State, tmp_path: Path) -> None:
    sockets = tmp_path / "pulp-star-sockets-x"
    sockets.mkdir()
    os.chown(sockets, OTHER_USER, -1)
    state.save(Instance("127.0.0.1", 80, str(sockets)))
    with pytest.raises(click.ClickException, match=f"{sockets} cannot be trusted"):
        state.load()


@pytest.mark.parametrize(
    "secret",
    [
        lambda state: state.settings,
        lambda state: state.encryption_key,
        lambda state: state.password_file,
        lambda state: state.instance_file,
    ],
)
def test_secret_that_others_could_read_is_made_private(
    state: State, secret: Callable[[State], Path]
) -> None:
    secret(state).chmod(0o644)
    state.load()
    assert secret(state).stat().st_mode & 0o777 == 0o600


def test_created_files_are_private_with_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        state = State(tmp_path / "home")
        state.create()
        state.save(Instance("127.0.0.1", 80, "/s"))
        state.write_pulp_cli_config(state.load())
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o077 for path in (state.home, *state.home.iterdir())} == {0}
