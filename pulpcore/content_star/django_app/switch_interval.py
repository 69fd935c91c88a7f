"""Interval after which a view gives up Python's interpreter lock."""

import sys
from types import TracebackType

MAX_SECONDS = 1e9
"""Python counts microseconds, and more than fit into its integer become another number."""


class SwitchInterval:
    """Context manager: threads ask for the interpreter's lock after `seconds` during the blocks.

    The event loop, which sends content, waits for that long each time that a view computes: by
    Python's default 5 ms. Without views the default stays: content's own threads compute little at
    a time, and distinct files were up to 8 % slower. Blocks may overlap, in one thread. None
    changes nothing. See CONTENT_STAR_SWITCH_INTERVAL.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds if seconds is None else min(seconds, MAX_SECONDS)
        self._blocks = 0
        self._earlier = 0.0

    def __enter__(self) -> None:
        if self._seconds is not None and not self._blocks:
            self._earlier = sys.getswitchinterval()
            sys.setswitchinterval(self._seconds)
        self._blocks += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._blocks -= 1
        if self._seconds is not None and not self._blocks:
            sys.setswitchinterval(self._earlier)
