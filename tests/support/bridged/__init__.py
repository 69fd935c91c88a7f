"""A plugin that is written for aiohttp, and how servers come to have it installed."""

from pathlib import Path

FOLDER = Path(__file__).parent


def installed(notes: Path, **environ: str) -> dict[str, str]:
    """The environment of a server that has the plugin; its handlers leave word in `notes`."""
    return {"PYTHONPATH": str(FOLDER), "BRIDGED_NOTES": str(notes), **environ}
