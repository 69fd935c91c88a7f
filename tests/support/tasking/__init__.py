"""A plugin whose views run immediate tasks, and the environment that installs it in a server."""

from pathlib import Path

FOLDER = Path(__file__).parent


def installed(**environ: str) -> dict[str, str]:
    """Return the environment of a server that has the plugin."""
    return {"PYTHONPATH": str(FOLDER), **environ}
