"""`pulp-star up`: run PostgreSQL, a worker and Pulp as supervised processes."""

import errno
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click

from pulpcore.content_star.cli.processes import (
    POLL_SECONDS,
    Child,
    Stopped,
    Supervisor,
    end_leftovers,
    failure,
    program,
)
from pulpcore.content_star.cli.state import Instance, State, home_option
from pulpcore.content_star.cli.status import fetch_status

HELLO = {
    "hello.txt": "Hello from Pulp!\n",
    "about.txt": "Pulp serves the files of this repository. `pulp-star add` makes more like it.\n",
    "more/ünïcode & spaces.txt": "Names are free: spaces, quotes, %, #, ? and any script.\n",
}
START_SECONDS = 600
"""Timeout for a process to start serving, on a loaded machine."""
DRAIN_SECONDS = 300
"""Timeout for downloads of a replaced process."""
STOP_SECONDS = 10
"""Timeout for downloads when everything stops."""
BACKLOG = 2048
"""Backlog of the listening socket: uvicorn's default."""


@click.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=24817,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--postgres",
    "programs",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Use PostgreSQL's programs in this directory instead of the embedded ones, for example"
    " for ICU, which pulp_ansible needs: /usr/lib/postgresql/15/bin.",
)
@home_option
def command(host: str, port: int, programs: Path | None, state: State) -> None:
    """Start a complete Pulp on this machine, and stop it on Ctrl-C.

    It runs an embedded PostgreSQL, one worker, and Pulp's REST API and content app in one process.
    The first start takes half a minute to two: it makes the database, the user `admin`, and a small
    repository `hello` to try. Later starts on the same state directory take seconds. The first
    start prints the password if it is on a terminal; `pulp-star password` prints it at any time.

    All state is in the state directory, and no process stays running: SIGINT, SIGTERM and SIGHUP
    stop everything. A process that ends is started again; when one cannot be kept up for a minute,
    everything stops. `pulp-star reload` replaces the process that serves without refusing a
    request. Their output is in the directory's logs/ (`pulp-star logs`), at most 20 MiB each. Run
    by root, PostgreSQL gets a system account, embedded_postgres, of its own.

    The state directory has to be private. It is refused if another user could change it, one of
    its files, or a directory above it, and if one of them is a symbolic link.
    """
    supervisor = Supervisor(state.logs)
    supervisor.listen()
    state.create()
    with state.locked():
        try:
            _run(state, supervisor, host, port, programs)
        except Stopped as stopped:
            click.echo(f"\n{stopped}: stopping.")
        finally:
            _stop(supervisor)


def _run(state: State, supervisor: Supervisor, host: str, port: int, programs: Path | None) -> None:
    from pulpcore.content_star.cli import postgres
    from pulpcore.content_star.cli.prepare import Preparation, process_environ

    started = time.monotonic()
    postgres.programs(programs)
    if count := end_leftovers(state.home):
        click.echo(f"Ended {count} processes of a `pulp-star up` that was killed.")
    listener = supervisor.afterwards.enter_context(_listen(host, port))
    port = listener.getsockname()[1]
    click.echo(f"Pulp in {state.home}")

    if not state.database.exists():
        with supervisor.step("Creating the database"):
            postgres.create(state, supervisor, programs)
    with supervisor.step("Starting PostgreSQL"):
        instance = Instance(host, port, str(postgres.start(state, supervisor, programs)))
    state.save(instance)
    environ = process_environ(state, instance)

    preparation = Preparation(state, supervisor, environ)
    if not preparation.is_current("migrate"):
        with supervisor.step("Applying migrations", preparation.migrations_done):
            preparation.migrate()
    if not preparation.is_current("collectstatic"):
        with supervisor.step("Collecting static files"):
            preparation.collect_static()
    is_first_start = not preparation.was_done("admin")
    if is_first_start:
        with supervisor.step("Creating the user admin"):
            preparation.create_admin()
    with supervisor.step("Starting Pulp and a worker"):
        worker = _spawn_worker(state, supervisor, environ)
        server = _start_uvicorn(state, supervisor, environ, listener)
        supervisor.children += [worker, server]
        supervisor.wait_until(lambda: _online(instance, worker), START_SECONDS, "Starting Pulp")
    if not preparation.was_done("hello"):
        with supervisor.step("Adding the repository hello"):
            _add_hello(state, supervisor, environ)
        preparation.remember("hello")
    state.write_pulp_cli_config(instance)
    _report(state, instance, time.monotonic() - started, is_first_start)

    def restart(child: Child) -> Child:
        match child.name:
            case "postgres":
                return postgres.spawn(state, supervisor, Path(instance.socket_dir), programs)
            case "uvicorn":
                return _start_uvicorn(state, supervisor, environ, listener)
        return _spawn_worker(state, supervisor, environ)

    supervisor.restart = restart
    supervisor.watch(lambda: _reload(state, supervisor, environ, instance, listener))


def _reload(
    state: State,
    supervisor: Supervisor,
    environ: Mapping[str, str],
    instance: Instance,
    listener: socket.socket,
) -> None:
    """Start a new uvicorn on the same socket, and retire the old one gracefully.

    If the new one fails to start, the old one continues.
    """
    problem = ""
    with supervisor.step("Starting the next process"):
        new = _start_uvicorn(state, supervisor, environ, listener)
        deadline = time.monotonic() + START_SECONDS
        while not (problem or _serves(instance, new)):
            supervisor.check()
            if new.process.poll() is not None:
                problem = failure(new).message
            elif time.monotonic() > deadline:
                problem = f"It did not start serving within {START_SECONDS} s. See {new.log}."
            time.sleep(POLL_SECONDS)
    if problem:
        new.stop()
        click.echo(f"The process before goes on, because the next one failed: {problem}")
    else:
        old = next(child for child in supervisor.children if child.name == "uvicorn")
        supervisor.children.append(new)
        supervisor.retire(old)
    state.save_reload(problem)


def _stop(supervisor: Supervisor) -> None:
    if not supervisor.children:
        return
    try:
        with supervisor.step("Stopping everything"):
            supervisor.stop()
    finally:
        supervisor.stop()  # also if printing failed, as after closing the terminal


def _spawn_worker(state: State, supervisor: Supervisor, environ: Mapping[str, str]) -> Child:
    command = [program("pulpcore-worker")]
    signals = ((signal.SIGTERM, 20.0),)
    return supervisor.spawn("pulpcore-worker", command, environ, state.working_directory, signals)


def _start_uvicorn(
    state: State, supervisor: Supervisor, environ: Mapping[str, str], listener: socket.socket
) -> Child:
    descriptor = listener.fileno()
    command: list[str | Path] = [
        program("uvicorn"),
        "pulpcore.routing:application",
        *("--fd", str(descriptor)),
        *("--timeout-graceful-shutdown", str(DRAIN_SECONDS)),
        *("--http", "pulpcore.content_star.server:HttpProtocol"),
        "--no-access-log",  # it writes the tokens of signed URLs
    ]
    # On the second signal, uvicorn aborts running downloads.
    signals = ((signal.SIGTERM, STOP_SECONDS), (signal.SIGINT, STOP_SECONDS))
    return supervisor.spawn(
        "uvicorn", command, environ, state.working_directory, signals, pass_fds=[descriptor]
    )


def _serves(instance: Instance, server: Child) -> bool:
    """Return whether the status lists the process as an online content app."""
    status = fetch_status(instance)
    apps = status["online_content_apps"] if status else []
    return any(app["name"].startswith(f"{server.process.pid}@") for app in apps)


def _online(instance: Instance, worker: Child) -> bool:
    """Return whether the API answers and lists this worker, not only an earlier one."""
    status = fetch_status(instance)
    if status is None:
        return False
    names = [entry["name"] for entry in status["online_workers"]]
    return any(name.startswith(f"{worker.process.pid}@") for name in names)


def _add_hello(state: State, supervisor: Supervisor, environ: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir=state.working_directory) as folder:
        for name, text in HELLO.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        command = [sys.executable, "-m", "pulpcore.content_star.cli", "add", folder]
        options = ["--base-path", "hello", "--home", str(state.home)]
        supervisor.run("hello", [*command, *options], environ, state.working_directory)


def _report(state: State, instance: Instance, seconds: float, is_first_start: bool) -> None:
    url, password = instance.url, f"in {state.password_file}"
    # Not to a journal or file, which other users may read.
    if is_first_start and sys.stdout.isatty():
        password = f"{state.password} (also in {state.password_file})"
    click.echo(
        f"""\
Ready after {seconds:.1f} s.

  Content   {url}/pulp/content/
  API       {url}/pulp/api/v3/
  Docs      {url}/pulp/api/v3/docs/
  Status    {url}/pulp/api/v3/status/
  User      admin, password {password}

  curl {url}/pulp/content/hello/hello.txt
  pulp --config {shlex.quote(str(state.pulp_cli_config))} status    (pip install pulp-cli)

Ctrl-C stops it."""
    )


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free port.

    It is opened here, so that connections are queued while one uvicorn replaces another.
    Raises `click.ClickException` if the address is not available.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(addresses, key=lambda found: found[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "the port is in use. Choose another one with --port"
        else:
            reason = error.strerror or str(error)
        raise click.ClickException(f"Cannot listen on {host}:{port}: {reason}.") from None
