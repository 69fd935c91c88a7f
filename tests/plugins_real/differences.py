"""Where what plugins answer is sent in another way than by `pulpcore-content`, and why."""

from tests.parity.differences import Difference
from tests.parity.test_parity import FILE

ANSWER = "answers of plugins"
INDEX = f"{FILE}; Vary of an index.html"

OF_PLUGINS = {
    "answers of plugins": Difference(
        frozenset({"cache-control", "content-security-policy", "x-content-type-options"}),
        "None of these, if the plugin says nothing.",
        "`X-Content-Type-Options`, `Content-Security-Policy` and the `Cache-Control` of files.",
        "As on all that a distribution answers.",
    ),
    "Vary of an index.html": Difference(
        frozenset({"vary"}),
        "None.",
        "`Vary: Accept`.",
        "A directory is JSON where `Accept` prefers it, also where there is an `index.html`.",
    ),
}
