"""Child processes: started so that none outlives us, watched together, stopped in order."""

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
"""Set for Pulp's processes, so that the next `up` knows what a killed one left behind."""

LOG_BYTES = 10 * 1024 * 1024
"""From this size on a log is emptied into its `.old` file: twice this is what each can take."""

_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """A signal asked us to stop."""


@dataclass
class Child:
    """A process we started and have to stop."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    signals: tuple[tuple[signal.Signals, float], ...]
    """How to stop it: each signal, and the seconds it gets before the next one, then SIGKILL."""

    def stop(self) -> None:
        """End the process and whatever it has started itself."""
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


class Supervisor:
    """Starts children, notices when one dies or a signal asks us to stop, and stops them all."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.children: list[Child] = []
        self.retired: list[Child] = []
        """Children that have been replaced, and end once their clients are served."""
        self.afterwards = ExitStack()
        """What to clean up once all children have stopped."""
        self.on_wait: Callable[[], object] = lambda: None
        """Called again and again while we wait, to show progress."""
        self._signal: signal.Signals | None = None
        self._is_reload_asked = False

    @contextmanager
    def step(self, label: str, detail: Callable[[], str] = str) -> Iterator[None]:
        """Show one line about what is being done, and how far it is while we wait for it."""
        with step(label, detail) as current:
            self.on_wait = current.tick
            try:
                yield
            finally:
                self.on_wait = lambda: None

    def listen(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP as the wish to stop, and SIGUSR1 as that to reload."""
        signal.signal(signal.SIGUSR1, self._on_reload)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        self._is_reload_asked = True

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environ: Mapping[str, str],
        cwd: Path,
        signals: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 20),),
        on_our_death: signal.Signals = signal.SIGKILL,
    ) -> Child:
        """Start a process whose output goes to a log file, and watch it from now on."""
        child = self.spawn(name, command, environ, cwd, signals, on_our_death)
        self.children.append(child)
        return child

    def retire(self, child: Child) -> None:
        """Let a child that has been replaced end in its own time."""
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
        """Run a process to its end; it must succeed."""
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
        """Start a process whose output goes to a log file, without watching it."""
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
                # A session of its own: Ctrl-C reaches only us, and we stop all in order.
                start_new_session=True,
                pass_fds=pass_fds,
                preexec_fn=_dies_with(os.getpid(), on_our_death),
            )
        if process.stdin:
            process.stdin.write(stdin)
            process.stdin.close()
        return Child(name, process, log, signals)

    def check(self) -> None:
        """Raise if we were asked to stop, or if a child has died."""
        self.on_wait()
        if self._signal is not None:
            raise Stopped(self._signal.name)
        for child in self.children:
            if child.process.poll() is not None:
                raise failure(child)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition, for as long as all children live."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise click.ClickException(
                    f"{what} took longer than {seconds:.0f} seconds. Look into {self.logs}."
                )
            time.sleep(POLL_SECONDS)

    def watch(self, reload: Callable[[], object]) -> None:
        """Wait until we are asked to stop or a child dies; keep the logs from growing.

        `reload` is called when we are asked to.
        """
        while True:
            self.check()
            if self._is_reload_asked:
                self._is_reload_asked = False
                reload()
            self.retired = [each for each in self.retired if each.process.poll() is None]
            for child in self.children:
                rotate(child.log, LOG_BYTES)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop all children, the youngest first. A second signal does not interrupt it."""
        for children in (self.retired, self.children):
            while children:
                children[-1].stop()
                children.pop()
        self.afterwards.close()


def failure(child: Child) -> click.ClickException:
    """What to tell about a process that ended by itself."""
    code = child.process.returncode
    how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    return click.ClickException(
        f"{child.name} ended unexpectedly ({how}). The end of {child.log}:\n{tail(child.log)}"
    )


def rotate(log: Path, limit: int) -> None:
    """Move what is in a log that has reached its limit, in bytes, to its `.old` file.

    The process goes on writing to the same file, at its new end, because it was opened to append;
    what it writes in the instant between copying and emptying is lost, as with `copytruncate` of
    logrotate.
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
    """The last lines of a log file, indented."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"


def program(name: str) -> Path:
    """A command of our own virtual environment, wherever it was started from."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return beside
    found = shutil.which(name)
    if found is None:
        raise click.ClickException(f"The command {name} is not installed beside pulp-star.")
    return Path(found)


def end_leftovers(owner: Path) -> int:
    """Kill what a killed `up` of the same state left running, and return how many there were."""
    pids = leftovers(owner)
    for pid in pids:
        signal_process(pid, signal.SIGKILL, lambda pid: _belongs_to(pid, owner))
    while leftovers(owner):
        time.sleep(POLL_SECONDS)
    return len(pids)


def leftovers(owner: Path) -> list[int]:
    """The processes of Pulp that an `up` of this state started: PostgreSQL has its own way."""
    return [pid for pid in _pids() if _belongs_to(pid, owner)]


def _belongs_to(pid: int, owner: Path) -> bool:
    """Whether a process is ours and marked; root can read the marks that other users make up."""
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return False
    except OSError:
        return False
    return f"{OWNER_VARIABLE}={owner}".encode() in _environment(pid)


def signal_process(pid: int, number: signal.Signals, matches: Callable[[int], bool]) -> None:
    """Signal a process if it matches, and no other that gets its id after it was looked at."""
    with suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if matches(pid):
                os.kill(pid, number)
            return
        if not matches(pid):
            return
        descriptor = os.pidfd_open(pid)
        try:
            if matches(pid):  # again: now the id stays with the process
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _pids() -> list[int]:
    proc = Path("/proc")
    return [int(entry.name) for entry in proc.glob("[0-9]*")] if proc.is_dir() else []


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []


def _dies_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """For the new process: have Linux signal it when `parent` dies, however it dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
