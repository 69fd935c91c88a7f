"""Progress lines of long steps."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

TERMINAL_SECONDS = 0.5
"""Interval of updates on a terminal."""
LOG_SECONDS = 15.0
"""Interval of updates elsewhere, as in a journal."""


class Step:
    """A progress line, with label, detail and elapsed time."""

    def __init__(self, label: str, detail: Callable[[], str] = str) -> None:
        self.label = label
        self.detail = detail
        self.started = time.monotonic()
        self._shown = self.started
        self._on_terminal = sys.stdout.isatty()
        click.echo(f"{label} ... ", nl=False)

    def tick(self) -> None:
        """Update the line, at most once per interval."""
        now = time.monotonic()
        if now - self._shown < (TERMINAL_SECONDS if self._on_terminal else LOG_SECONDS):
            return
        self._shown = now
        if self._on_terminal:
            self._draw(f"{self._so_far()}{now - self.started:.0f} s")
        else:
            click.echo(f"{self._so_far()}{now - self.started:.0f} s ... ", nl=False)

    def finish(self) -> None:
        """End the line with the elapsed time."""
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
    """Show a progress line for the block; `detail` returns its progress."""
    current = Step(label, detail)
    try:
        yield current
    except BaseException:
        click.echo()
        raise
    current.finish()
