"""`pulp-star up`: start, restart, stop and failure, without leaving processes behind."""

import os
import pty
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from pulpcore.content_star.cli import postgres
from pulpcore.content_star.cli.prepare import Preparation
from pulpcore.content_star.cli.processes import OWNER_VARIABLE, Supervisor, leftovers
from pulpcore.content_star.cli.state import Instance as CliInstance
from pulpcore.content_star.cli.state import State
from tests.support.instance import Instance, pulp_star, wait_until
from tests.support.template import copy_template

pytestmark = pytest.mark.slow

# A directory whose path is too long for a socket's name.
LONG = "a home rather long and ünusual " + "x" * 60


@pytest.fixture(scope="module")
def prepared(instance: Instance) -> Iterator[Instance]:
    """An instance for this module to start and stop, in a directory with a long path.

    Its database is the template's, which saves the migrations; it prepares all else as new.
    """
    pulp = Instance(Instance.temporary().home.with_name(LONG))
    try:
        copy_template(pulp.home)
        for mark in pulp.state.done.iterdir():
            mark.unlink()
        pulp.start()
        assert pulp.stop() == 0
        yield pulp
    finally:
        pulp.remove()


@pytest.fixture
def own(prepared: Instance) -> Iterator[Instance]:
    """The module's instance, stopped before and after the test."""
    yield prepared
    if prepared.process is not None and prepared.process.poll() is None:
        prepared.stop()
    wait_until(lambda: prepared.processes() == [])


def child(own: Instance, name: str) -> int:
    """Return the pid of one of `up`'s children."""
    if name == "postgres":
        return int((own.state.database / "postmaster.pid").read_text().split("\n", 1)[0])
    mark = f"/{name}\0".encode()
    [pid] = [
        pid for pid in leftovers(own.home) if mark in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


def children(own: Instance, name: str) -> list[int]:
    """Return the pids of `up`'s own processes of a program."""
    pids = Path(f"/proc/{own.pid}/task/{own.pid}/children").read_text().split()
    mark = f"/{name}\0".encode()
    return [int(pid) for pid in pids if mark in Path(f"/proc/{pid}/cmdline").read_bytes()]


def exit_code(own: Instance) -> int:
    assert own.process is not None
    return own.process.wait(300)


def error_of_up(*arguments: str | Path) -> str:
    """Run an `up` that must fail, and return its error message."""
    completed = subprocess.run(
        pulp_star("up", *map(str, arguments)), capture_output=True, text=True, timeout=300
    )
    assert completed.returncode == 1, completed.stdout
    assert len(completed.stderr.splitlines()) == 1, completed.stderr
    return completed.stderr


def test_up_prints_urls_and_the_user(instance: Instance) -> None:
    said = instance.said()
    for line in (
        f"Pulp in {instance.home}",
        f"  API       {instance.url}/pulp/api/v3/",
        f"  Content   {instance.url}/pulp/content/",
        f"  Status    {instance.url}/pulp/api/v3/status/",
        f"  Docs      {instance.url}/pulp/api/v3/docs/",
        f"  User      admin, password in {instance.state.password_file}",
    ):
        assert line in said.splitlines()
    for path in ("", "docs/", "status/"):
        url = f"{instance.url}/pulp/api/v3/{path}"
        assert httpx.get(url).status_code == 200


def start_on_a_terminal(own: Instance) -> str:
    """Start `up` on a terminal, and return its output until it is ready."""
    ours, theirs = pty.openpty()
    command = [*pulp_star("up"), "--home", str(own.home), "--port", "0"]
    own.process = subprocess.Popen(command, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    output = b""
    with suppress(OSError):  # EIO: `up` has ended
        while b"Ctrl-C" not in output:
            output += os.read(ours, 4096)
    os.close(ours)
    return output.decode()


def test_password_is_printed_at_the_first_start_on_a_terminal_only(own: Instance) -> None:
    named = f"password in {own.state.password_file}"
    assert own.password not in own.said()
    assert named in own.said()

    (own.state.done / "admin").unlink()
    first = start_on_a_terminal(own)
    own.stop()
    second = start_on_a_terminal(own)

    assert f"admin, password {own.password} (also in {own.state.password_file})" in first
    assert own.password not in second
    assert named in second


def test_database_is_created_below_a_long_path(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    state = State(tmp_path / LONG)
    state.create()
    supervisor = Supervisor(state.logs)
    try:
        postgres.create(state, supervisor)
        sockets = postgres.start(state, supervisor)
        psycopg.connect(host=str(sockets), user="pulp", dbname="pulp").close()
    finally:
        supervisor.stop()


def test_migrations_are_counted_while_they_are_applied(instance: Instance) -> None:
    state = instance.state  # of the first start, or copied from the template
    log = (state.logs / "migrate.log").read_text()
    applied = log.count("... OK")
    assert applied > 90
    assert f"Planned: {applied}\n" in log
    preparation = Preparation(state, Supervisor(state.logs), {})
    assert preparation.migrations_done() == f"{applied} of {applied}"


def test_postgresql_has_no_capabilities_to_write_other_files(instance: Instance) -> None:
    status = Path(f"/proc/{child(instance, 'postgres')}/status").read_text()
    capabilities = dict(re.findall(r"^Cap(Inh|Prm|Eff|Amb):\s*(\w+)$", status, re.MULTILINE))
    dac_read_search = 1 << 2
    allowed = dac_read_search if os.geteuid() == 0 else 0
    assert {int(mask, 16) for mask in capabilities.values()} == {allowed}


def test_symlinked_lock_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    home = tmp_path / "home"
    home.mkdir()
    (home / "lock").symlink_to(target)

    said = error_of_up("--home", home)

    assert said.startswith(f"Error: {home}/lock cannot be trusted, because it is a symbolic link")
    assert target.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("command", ["up", "env", "list", "status", "password", "logs"])
def test_state_directory_of_another_user_is_refused_by_every_command(
    tmp_path: Path, command: str
) -> None:
    home, ran = tmp_path / "home", tmp_path / "ran"
    State(home).create()
    State(home).save(CliInstance("127.0.0.1", 9, str(home)))
    (home / "settings.py").write_text(f"open({str(ran)!r}, 'w')")
    os.chown(home, 65534, 65534)

    completed = subprocess.run(
        pulp_star(command, "--home", str(home)), capture_output=True, text=True, timeout=300
    )

    assert completed.returncode == 1
    assert completed.stdout == ""
    assert completed.stderr.startswith(f"Error: {home} cannot be trusted, because it belongs to ")
    assert len(completed.stderr.splitlines()) == 1
    assert not ran.exists()


def test_admin_password_is_accepted_by_the_api(instance: Instance) -> None:
    url = f"{instance.url}/pulp/api/v3/users/"
    for password, status in ((instance.password, 200), ("wrong", 401)):
        response = httpx.get(url, auth=("admin", password))
        assert response.status_code == status


def test_secret_files_are_private(instance: Instance) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    state = instance.state
    secret = [
        state.password_file,
        state.encryption_key,
        state.settings,
        state.instance_file,
        state.pulp_cli_config,
    ]
    assert {mode(path) for path in secret} == {0o600}
    assert {mode(path) for path in (state.home, state.logs, state.media)} == {0o700}
    assert mode(state.database) & 0o077 == 0


def test_up_restarts_on_the_same_state_and_stops_on_sigint(own: Instance) -> None:
    password = own.password

    own.start()

    assert "Applying migrations" not in own.said()
    assert own.password == password
    with own.client() as api:
        found = api.get("/pulp/api/v3/distributions/file/file/", params={"name": "hello"})
        assert found.json()["count"] == 1

    assert_signal_stops_all_processes(own, signal.SIGINT)


def assert_signal_stops_all_processes(own: Instance, number: signal.Signals) -> None:
    """Stop a running Pulp; each of these tests uses another signal."""
    assert len(own.processes()) >= 3

    assert own.stop(number) == 0

    assert f"{number.name}: stopping." in own.said()
    assert not Path(own.state.load().socket_dir).exists()  # outside of the home


def test_up_stops_after_its_terminal_was_closed(own: Instance) -> None:
    """Output to the closed terminal fails, which must not prevent the stop."""
    command = [*pulp_star("up"), "--home", str(own.home), "--port", "0"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert up.stdout and up.stderr
    while b"Ctrl-C" not in up.stdout.readline():
        assert up.poll() is None
    up.stdout.close()
    up.stderr.close()
    up.send_signal(signal.SIGHUP)

    up.wait(300)

    assert own.processes() == []
    assert not (own.state.database / "postmaster.pid").exists()


def test_signal_during_the_start_stops_it(own: Instance) -> None:
    own.launch()
    wait_until(lambda: "Starting Pulp" in own.said())
    assert own.stop() == 0


def test_child_that_dies_is_started_again_and_sigterm_stops_it(own: Instance) -> None:
    own.start()
    url = f"{own.content_url}hello/hello.txt"
    # The database last: the others may end without it, and be started again later.
    for name in ("pulpcore-worker", "uvicorn", "postgres"):
        pid = child(own, name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name: f"{name} ended (signal SIGKILL)" in own.said())
        wait_until(lambda name=name, pid=pid: children(own, name) not in ([], [pid]))
        wait_until(lambda: answers(url))
        wait_until(lambda: is_online(own), explain=own.said)

    assert_signal_stops_all_processes(own, signal.SIGTERM)


def answers(url: str) -> bool:
    """Return whether a file is served."""
    with suppress(httpx.TransportError):
        return httpx.get(url).text == "Hello from Pulp!\n"
    return False


def is_online(own: Instance) -> bool:
    """Return whether the status lists the current worker and server."""
    with suppress(httpx.TransportError):
        response = httpx.get(f"{own.url}/pulp/api/v3/status/")
        if response.status_code != 200:
            return False
        status = response.json()
        names = [each["name"] for each in status["online_workers"] + status["online_content_apps"]]
        pids = children(own, "pulpcore-worker") + children(own, "uvicorn")
        return all(any(name.startswith(f"{pid}@") for name in names) for pid in pids)
    return False


def test_failing_step_prints_the_end_of_its_log(own: Instance) -> None:
    done = own.state.done / "migrate"
    settings, stamp = own.state.settings.read_text(), done.read_text()
    own.state.settings.write_text(settings + "\nraise RuntimeError('no such luck')\n")
    done.unlink()
    try:
        own.launch()
        assert exit_code(own) == 1
    finally:
        own.state.settings.write_text(settings)
        done.write_text(stamp)

    assert "Error: migrate ended unexpectedly (exit code 1)." in own.said()
    assert "no such luck" in own.said()
    assert own.processes() == []


def test_changed_settings_reach_the_default_domain_and_sighup_stops_up(own: Instance) -> None:
    """Pulp copies some into it at the end of `migrate`, which is run for them alone."""
    settings = own.state.settings.read_text()
    own.state.settings.write_text(settings + "\nREDIRECT_TO_OBJECT_STORAGE = False\n")
    try:
        own.start()
    finally:
        own.state.settings.write_text(settings)
    with psycopg.connect(host=own.address.socket_dir, user="pulp", dbname="pulp") as database:
        query = "SELECT redirect_to_object_storage FROM core_domain WHERE name = 'default'"
        assert database.execute(query).fetchone() == (False,)

    assert_signal_stops_all_processes(own, signal.SIGHUP)


def test_killed_up_leaves_no_processes(own: Instance) -> None:
    own.start()

    sockets = Path(own.state.load().socket_dir)
    own.kill()

    wait_until(lambda: own.processes() == [])
    own.start()
    assert not sockets.exists()


def test_processes_left_by_a_killed_up_are_ended_by_the_next_start(own: Instance) -> None:
    """As on systems that do not end children with their parent."""
    left = subprocess.Popen(["sleep", "1000"], env={**os.environ, OWNER_VARIABLE: str(own.home)})
    supervisor = Supervisor(own.state.logs)
    postgres.start(own.state, supervisor)
    [server] = supervisor.children

    own.start()

    assert left.wait(0) == -signal.SIGKILL
    assert server.process.wait(0) == 0
    supervisor.stop()


def test_second_up_on_one_state_is_refused(instance: Instance) -> None:
    said = error_of_up("--home", instance.home, "--port", "0")
    assert said.startswith(f"Error: Another `pulp-star up` (pid {instance.pid}) already runs on ")


def test_port_in_use_is_an_error(own: Instance) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        said = error_of_up("--home", own.home, "--port", port)

    assert said.startswith(f"Error: Cannot listen on 127.0.0.1:{port}: ")
    assert "--port" in said


def test_unknown_host_is_an_error(own: Instance) -> None:
    said = error_of_up("--home", own.home, "--host", "no such host")
    assert said.startswith("Error: Cannot listen on no such host:24817: ")


def test_unwritable_state_directory_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"  # even root cannot write below a file
    file.touch()
    said = error_of_up("--home", file / "home")
    assert said.startswith(f"Error: The state directory {file}/home cannot be written: ")


def test_directory_with_other_files_is_refused_unchanged(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()

    assert "holds other files" in error_of_up("--home", tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_directory_without_postgresql_is_an_error(tmp_path: Path) -> None:
    said = error_of_up("--home", tmp_path / "home", "--port", "0", "--postgres", tmp_path)
    assert f"no PostgreSQL server in {tmp_path}" in said
