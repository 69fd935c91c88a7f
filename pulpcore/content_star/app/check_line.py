"""One result of `pulpcore-manager content-star-check`."""

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Line:
    """One result."""

    level: Level
    check: str
    text: str

    def as_json(self) -> dict[str, str]:
        """Return the line for programs."""
        return asdict(self)
