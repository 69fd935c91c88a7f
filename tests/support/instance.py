"""A real Pulp for tests: `pulp-star up` as a process with its own state directory."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

import httpx

from pulpcore.content_star.cli.processes import leftovers, parent_death_signal
from pulpcore.content_star.cli.state import Instance as CliInstance
from pulpcore.content_star.cli.state import State
from tests.support.pulp import Pulp

# Bounds of waits are for broken code only: at least ten times the duration on a quiet machine.
START_SECONDS = 900
STOP_SECONDS = 300


class Instance:
    """One Pulp, from `start` to `stop`, which also ends processes started by `spawn`."""

    username = "admin"
    login = "/pulp/api/v3/login/"
    python = sys.executable
    """The interpreter of the environment that has its programs."""

    def __init__(self, home: Path, arguments: Iterable[str] = ("--port", "0")) -> None:
        self.home = home
        self.state = State(home)
        self.arguments = list(arguments)
        self.process: subprocess.Popen[bytes] | None = None
        self.spawned: list[subprocess.Popen[bytes]] = []
        self.output = home.with_name(home.name + ".out")
        self.cookies = httpx.Cookies()
        """Of the session of `client`."""

    @classmethod
    def temporary(cls) -> Self:
        """Return an instance with a new state directory, whose path is short enough for sockets."""
        return cls(Path(tempfile.mkdtemp(prefix="star-")) / "home")

    def start(self, seconds: float = START_SECONDS) -> "Instance":
        """Start `pulp-star up` and wait until it is ready, for `seconds` at most."""
        self.launch()
        wait_until(self._ready, seconds, self.said)
        self.__dict__.pop("address", None)
        return self

    def launch(self) -> None:
        """Start `pulp-star up` without waiting. It stops if the tests are killed, on Linux."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*pulp_star("up", python=self.python), "--home", str(self.home), *self.arguments],
                env=self.client_environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=parent_death_signal(os.getpid(), signal.SIGTERM),
            )

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"pulp-star up ended:\n{self.said()}"
        return "Ready after" in self.said()

    def said(self) -> str:
        """Return the output of `pulp-star up` so far."""
        return self.output.read_text() if self.output.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @cached_property
    def address(self) -> CliInstance:
        return self.state.load()

    @property
    def url(self) -> str:
        """Origin of the API, without a slash at the end."""
        return self.address.url

    @property
    def content_url(self) -> str:
        """Root of the content app, with a slash at the end."""
        return f"{self.url}/pulp/content/"

    @property
    def password(self) -> str:
        return self.state.password

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that `pulp-star env` exports."""
        return self.state.environ(self.address)

    @property
    def client_environ(self) -> dict[str, str]:
        """The environment of `pulp-star` itself, without the user's caches."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PULP_")}
        return {**inherited, "XDG_CACHE_HOME": str(self.home.with_name(self.home.name + ".cache"))}

    def pulp(self, url: str | None = None) -> Pulp:
        """Return a client of the REST API that creates objects."""
        return Pulp(self.client(url), httpx.BasicAuth(self.username, self.password))

    def client(self, url: str | None = None) -> httpx.Client:
        """Return an HTTP client that is logged in as admin, for paths below the origin or `url`.

        All have one session, because checking a password takes Pulp a quarter of a second.
        """
        url = url or self.url
        cookies = self._logged_in(url)
        return httpx.Client(
            base_url=url,
            cookies=cookies,
            headers={"X-CSRFToken": cookies["csrftoken"]},
            trust_env=False,
            timeout=300,
        )

    def _logged_in(self, url: str) -> httpx.Cookies:
        """Return the cookies of the earlier session, or of a new one if it has ended."""
        login = url + self.login
        if not self.cookies or httpx.get(login, cookies=self.cookies).status_code != 200:
            answer = httpx.post(login, auth=(self.username, self.password))
            self.cookies = answer.raise_for_status().cookies
        return self.cookies

    def run(
        self, command: Iterable[str], check: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the virtual environment on the same state, and return its result."""
        completed = subprocess.run(
            in_venv(command, self.python),
            env=self._environ(environ),
            cwd=self.state.working_directory,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if check and completed.returncode:
            raise AssertionError(f"{completed.args}: {completed.stdout}{completed.stderr}")
        return completed

    def spawn(
        self,
        command: Iterable[str],
        output: Path | None = None,
        pass_fds: Iterable[int] = (),
        **environ: str,
    ) -> subprocess.Popen[bytes]:
        """Start a command of the virtual environment on the same state."""
        with (output or Path(os.devnull)).open("wb") as stream:
            process = subprocess.Popen(
                in_venv(command, self.python),
                env=self._environ(environ),
                cwd=self.state.working_directory,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        self.spawned.append(process)
        return process

    def _environ(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**self.client_environ, **self.environ, "PULP_STAR_HOME": str(self.home), **extra}

    def star(
        self, *arguments: str, check: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a subcommand of `pulp-star` on the same state."""
        return self.run(pulp_star(*arguments, python=self.python), check=check, **environ)

    def processes(self) -> list[int]:
        """Return all processes that belong to this state."""
        return sorted({*leftovers(self.home), *working_below(self.home)})

    def servers(self) -> set[int]:
        """Return the pids of the uvicorn processes that `up` has started."""
        return {pid for pid in leftovers(self.home) if b"/uvicorn\0" in command_of(pid)}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop all processes, check that none remains, and return `up`'s exit code."""
        for process in self.spawned:
            stop(process)
        self.spawned.clear()
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        assert self.processes() == []
        return code

    def kill(self) -> None:
        """Kill `up` with SIGKILL, so that it cannot stop its children."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def remove(self) -> None:
        """Stop running processes, and delete the state directory."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.home.parent)


def pulp_star(*arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command line of `pulp-star`, by default with the tests' interpreter."""
    return [python, "-m", "pulpcore.content_star.cli", *arguments]


def command_of(pid: int) -> bytes:
    """Return the command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def in_venv(command: Iterable[str], python: str = sys.executable) -> list[str]:
    """Return a command line with the program of an interpreter's environment, if it has one."""
    name, *arguments = command
    program = Path(python).parent / name
    return [str(program) if program.exists() else name, *arguments]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process with SIGTERM, and after a timeout with SIGKILL."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def working_below(directory: Path) -> list[int]:
    """Return the processes whose working directory is below a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            cwd = (entry / "cwd").readlink()
        except OSError:
            continue
        if cwd.is_relative_to(directory):
            found.append(int(entry.name))
    return found


def wait_until(
    condition: Callable[[], object], seconds: float = 300, explain: Callable[[], str] = str
) -> None:
    """Wait for a condition; `seconds` is a bound for broken code only."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {explain()}"
        time.sleep(0.05)
