"""The progress bar of `pulp-star compare`."""

import sys

import click

from pulpcore.content_star.cli.compare.sources import Source


class ProgressBar:
    """Progress on a terminal: bytes of a file, or distributions."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream = sys.stderr
        self._bar = click.progressbar(
            range(source.total or 1), label="Comparing", file=self._stream, show_percent=True
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream.isatty():
            self._bar.render_finish()

    def update(self) -> None:
        """Show how much of the source is done."""
        if self._stream.isatty():
            self._bar.length = max(self._source.total, self._bar.pos, 1)
            self._bar.update(max(0, self._source.done - self._bar.pos))
