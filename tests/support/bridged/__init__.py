"""A legacy plugin, written for aiohttp, and the environment that installs it in a server."""

from pathlib import Path

FOLDER = Path(__file__).parent


def installed(notes: Path, **environ: str) -> dict[str, str]:
    """Return the environment of a server with the plugin; handlers record events in `notes`."""
    return {"PYTHONPATH": str(FOLDER), "BRIDGED_NOTES": str(notes), **environ}
