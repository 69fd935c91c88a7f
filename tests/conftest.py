"""Fixtures that all tests share."""

from collections.abc import Iterator

import pytest

from tests.instance import Instance


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    """A Pulp for the whole session: make your own repositories in it, with names of your own."""
    pulp = Instance.temporary()
    try:
        yield pulp.start()
        assert pulp.stop() == 0, pulp.said()
    finally:
        pulp.remove()
