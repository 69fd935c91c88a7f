"""Differences from `pulpcore-content` in responses made by plugins, and their reasons."""

from pulpcore.content_star.differences import Difference
from tests.parity.test_parity import FILE

ANSWER = "security headers of plugins"
INDEX = f"{FILE}; Vary of an index.html"

OF_PLUGINS = {
    "Vary of an index.html": Difference(
        frozenset({"vary"}),
        "None.",
        "`Vary: Accept`.",
        "A directory is JSON where `Accept` prefers it, also where there is an `index.html`.",
    ),
}
