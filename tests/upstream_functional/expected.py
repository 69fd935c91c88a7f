"""Which of upstream's tests are expected to fail here, and why: a plugin of pytest.

A test that fails by intent names the line of `docs/differences.md` that it contradicts. Tests that
need hosts of the internet are not run. Everything else that fails is a fault.
"""

import os
from collections.abc import Iterable

import pytest

KIND = os.environ.get("UPSTREAM_KIND", "core")

# Parts of names -> the reason, which is a line of docs/differences.md.
BY_INTENT: dict[str, str] = {}

# Parts of names of tests that fetch from hosts of the internet, which CI does not reach.
INTERNET: tuple[str, ...] = ()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if any(name in item.nodeid for name in INTERNET):
            item.add_marker(pytest.mark.skip(reason="needs a host of the internet"))
        for name, reason in BY_INTENT.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
