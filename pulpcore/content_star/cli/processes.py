"""Supervisor of child processes, which end with the parent and stop in order."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from pulpcore.content_star.cli import trust
from pulpcore.content_star.cli.steps import step

POLL_SECONDS = 0.05
OWNER_VARIABLE = "PULP_STAR_OWNER"
"""Environment variable by which `up` finds leftover processes of a killed `up`."""

LOG_BYTES = 10 * 1024 * 1024
"""Size at which a log is rotated to its `.old` file; each log takes at most twice as much."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before a child that ended is started again, doubled each time that it ends at once."""

GIVE_UP_AFTER = 60.0
"""Seconds for which a child is restarted. One that runs for as long is given as many again."""

_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """A signal requested to stop."""


@dataclass
class Child:
    """A child process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    signals: tuple[tuple[signal.Signals, float], ...]
    """Signals to stop it, each with a timeout in seconds, followed by SIGKILL."""
    started_at: float
    """On the monotonic clock, in seconds."""

    def stop(self) -> None:
        """Stop the process, and kill its process group."""
        for number, seconds in self.signals:
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Restarts:
    """Restarts of one child that keeps ending. Times are on the monotonic clock, in seconds."""

    since: float
    """When it first ended."""
    at: float
    """When it is started next."""
    pause: float = FIRST_PAUSE


class Supervisor:
    """Starts child processes, and stops all of them on a signal or when one cannot be kept up."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.children: list[Child] = []
        self.retired: list[Child] = []
        """Replaced children, which exit once their requests are finished."""
        self.restart: Callable[[Child], Child] | None = None
        """Starts a child again that ended; without it, all stop."""
        self._restarts: dict[str, Restarts] = {}
        self.afterwards = ExitStack()
        """Cleanup after all children have stopped."""
        self.on_wait: Callable[[], object] = lambda: None
        """Called repeatedly while waiting, to show progress."""
        self._signal: signal.Signals | None = None
        self._reload_requested = False

    @contextmanager
    def step(self, label: str, detail: Callable[[], str] = str) -> Iterator[None]:
        """Show a progress line for the block."""
        with step(label, detail) as current:
            self.on_wait = current.tick
            try:
                yield
            finally:
                self.on_wait = lambda: None

    def listen(self) -> None:
        """Install handlers: SIGINT, SIGTERM and SIGHUP stop, SIGUSR1 reloads."""
        signal.signal(signal.SIGUSR1, self._on_reload)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        self._reload_requested = True

    def retire(self, child: Child) -> None:
        """Stop supervising a replaced child, and let it finish its requests."""
        self.children.remove(child)
        self.retired.append(child)
        child.process.terminate()

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        environ: Mapping[str, str],
        cwd: Path,
        stdin: bytes = b"",
    ) -> None:
        """Run a process to its end. Raises `click.ClickException` if it fails."""
        stop = ((signal.SIGTERM, 5.0),)
        child = self.spawn(name, command, environ, cwd, stop, signal.SIGKILL, stdin)
        try:
            while child.process.poll() is None:
                self.check()
                time.sleep(POLL_SECONDS)
        finally:
            child.stop()
        if child.process.returncode:
            raise failure(child)

    def spawn(
        self,
        name: str,
        command: Sequence[str | Path],
        environ: Mapping[str, str],
        cwd: Path,
        signals: tuple[tuple[signal.Signals, float], ...],
        on_our_death: signal.Signals = signal.SIGKILL,
        stdin: bytes = b"",
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start a process with a log file, without supervising it."""
        log = self.logs / f"{name}.log"
        if log.exists():
            log.rename(_old(log))
        with trust.create(log) as output:
            process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
                command,
                env=environ,
                cwd=cwd,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A new session: Ctrl-C only reaches the parent, which stops children in order.
                start_new_session=True,
                pass_fds=pass_fds,
                preexec_fn=parent_death_signal(os.getpid(), on_our_death),
            )
        if process.stdin:
            process.stdin.write(stdin)
            process.stdin.close()
        return Child(name, process, log, signals, time.monotonic())

    def check(self) -> None:
        """Start children that have exited again, if there is a `restart`.

        Raises `Stopped` after a signal, and `click.ClickException` if a child has exited and is not
        started again, or not for longer than `GIVE_UP_AFTER`.
        """
        self.on_wait()
        if self._signal is not None:
            raise Stopped(self._signal.name)
        for index, child in enumerate(self.children):
            if child.process.poll() is None:
                continue
            if self.restart is None:
                raise failure(child)
            if self._is_due(child):
                child.stop()  # its own children
                self.children[index] = self.restart(child)

    def _is_due(self, child: Child) -> bool:
        """Return whether a child that ended is to be started now. Raises `click.ClickException`."""
        now = time.monotonic()
        restarts = self._restarts.get(child.name)
        if restarts is None or now - restarts.at > GIVE_UP_AFTER:
            restarts = self._restarts[child.name] = Restarts(now, now + FIRST_PAUSE)
        elif restarts.at < child.started_at:  # ended again
            if now - restarts.since > GIVE_UP_AFTER:
                message = failure(child).message
                raise click.ClickException(f"Starting {child.name} again is in vain. {message}")
            restarts.pause = min(2 * restarts.pause, LONGEST_PAUSE)
            restarts.at = now + restarts.pause
        else:
            return now >= restarts.at
        click.echo(
            f"{child.name} ended ({how_ended(child)}), starting it again in {restarts.pause:g} s."
            f" Its output is in {_old(child.log)}."
        )
        return False

    def wait_until(self, condition: Callable[[], bool], seconds: float, action: str) -> None:
        """Wait for a condition, while all children run. Raises as `check`, and on a timeout."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise click.ClickException(
                    f"{action} took longer than {seconds:.0f} seconds. See the logs in {self.logs}."
                )
            time.sleep(POLL_SECONDS)

    def watch(self, reload: Callable[[], object]) -> None:
        """Supervise children and rotate logs until `check` raises; SIGUSR1 calls `reload`."""
        while True:
            self.check()
            if self._reload_requested:
                self._reload_requested = False
                reload()
            self.retired = [each for each in self.retired if each.process.poll() is None]
            for child in self.children:
                rotate(child.log, LOG_BYTES)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop all children in reverse order of start. Further signals do not interrupt it."""
        for children in (self.retired, self.children):
            while children:
                children[-1].stop()
                children.pop()
        self.afterwards.close()


def how_ended(child: Child) -> str:
    """Return the exit code or signal of a process that has exited."""
    code = child.process.returncode
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def failure(child: Child) -> click.ClickException:
    """Return the error for a process that exited unexpectedly, with the end of its log."""
    return click.ClickException(
        f"{child.name} ended unexpectedly ({how_ended(child)})."
        f" The end of {child.log}:\n{tail(child.log)}"
    )


def rotate(log: Path, limit: int) -> None:
    """Rotate a log that has reached its limit, in bytes, to its `.old` file.

    The process continues to write to the same file, which is open for appending. Lines written
    between copying and truncating are lost, as with `copytruncate` of logrotate.
    """
    if log.stat().st_size < limit:
        return
    old = _old(log)
    old.unlink(missing_ok=True)
    with log.open("r+b") as source, trust.create(old) as target:
        shutil.copyfileobj(source, target)
        source.truncate(0)


def _old(log: Path) -> Path:
    return log.with_suffix(".log.old")


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, indented."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"


def program(name: str) -> Path:
    """Return the path of a program, in the current virtual environment or on PATH.

    Raises `click.ClickException` if it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return beside
    found = shutil.which(name)
    if found is None:
        raise click.ClickException(f"The command {name} is not installed beside pulp-star.")
    return Path(found)


def end_leftovers(owner: Path) -> int:
    """Kill leftover processes of a killed `up` on the same state, and return their number."""
    pids = leftovers(owner)
    for pid in pids:
        signal_process(pid, signal.SIGKILL, lambda pid: _belongs_to(pid, owner))
    while leftovers(owner):
        time.sleep(POLL_SECONDS)
    return len(pids)


def leftovers(owner: Path) -> list[int]:
    """Return the ids of Pulp's processes of this state; PostgreSQL has a pid file instead."""
    return [pid for pid in _pids() if _belongs_to(pid, owner)]


def _belongs_to(pid: int, owner: Path) -> bool:
    """Return whether a process has our user id and the state's `OWNER_VARIABLE`.

    The user id matters for root, which can read variables that other users set.
    """
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return False
    except OSError:
        return False
    return f"{OWNER_VARIABLE}={owner}".encode() in _environment(pid)


def signal_process(pid: int, number: signal.Signals, matches: Callable[[int], bool]) -> None:
    """Signal a process if it matches; with a pidfd, so that a reused id is not signalled."""
    with suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if matches(pid):
                os.kill(pid, number)
            return
        if not matches(pid):
            return
        descriptor = os.pidfd_open(pid)
        try:
            if matches(pid):  # again: the pidfd refers to this process
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _pids() -> list[int]:
    proc = Path("/proc")
    return [int(entry.name) for entry in proc.glob("[0-9]*")] if proc.is_dir() else []


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or of another user
        return []


def parent_death_signal(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn` that sets the parent death signal, None except on Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def set_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was set
            os._exit(1)

    return set_death_signal
