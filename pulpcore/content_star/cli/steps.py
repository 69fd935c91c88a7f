"""Progress of long steps: one line each, so that a slow machine does not look like a broken one."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

TERMINAL_SECONDS = 0.5
"""How often a terminal's line is drawn again."""
LOG_SECONDS = 15.0
"""How often a line is added where the output is no terminal, as in a journal."""


class Step:
    """What is being done, how far it is, and how long it has taken."""

    def __init__(self, label: str, detail: Callable[[], str] = str) -> None:
        self.label = label
        self.detail = detail
        self.started = time.monotonic()
        self._shown = self.started
        self._on_terminal = sys.stdout.isatty()
        click.echo(f"{label} ... ", nl=False)

    def tick(self) -> None:
        """Show how far it is, if that was not shown just now."""
        now = time.monotonic()
        if now - self._shown < (TERMINAL_SECONDS if self._on_terminal else LOG_SECONDS):
            return
        self._shown = now
        if self._on_terminal:
            self._draw(f"{self._so_far()}{now - self.started:.0f} s")
        else:
            click.echo(f"{self._so_far()}{now - self.started:.0f} s ... ", nl=False)

    def finish(self) -> None:
        """End the line with the time it took."""
        seconds = f"{time.monotonic() - self.started:.1f} s"
        if self._on_terminal:
            self._draw(seconds)
            click.echo()
        else:
            click.echo(seconds)

    def _so_far(self) -> str:
        detail = self.detail()
        return f"{detail}, " if detail else ""

    def _draw(self, text: str) -> None:
        click.echo(f"\r\033[K{self.label} ... {text}", nl=False)


@contextmanager
def step(label: str, detail: Callable[[], str] = str) -> Iterator[Step]:
    """Say what is being done, then how long it took; `detail` says how far it is."""
    current = Step(label, detail)
    try:
        yield current
    except BaseException:
        click.echo()
        raise
    current.finish()
