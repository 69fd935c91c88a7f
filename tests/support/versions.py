"""Skips tests with older versions of pulpcore, with which `make test-matrix` runs them."""

from importlib.metadata import version

import pytest
from packaging.version import Version


def since(pulpcore: str) -> pytest.MarkDecorator:
    """Skip a test of a feature that pulpcore has since a version."""
    return pytest.mark.skipif(
        Version(version("pulpcore")) < Version(pulpcore), reason=f"pulpcore has it since {pulpcore}"
    )
