"""What older versions of pulpcore lack; `make test-matrix` runs the tests with one."""

from importlib.metadata import version

import pytest
from packaging.version import Version


def since(pulpcore: str) -> pytest.MarkDecorator:
    """Skip a test of what pulpcore has from a version on."""
    return pytest.mark.skipif(
        Version(version("pulpcore")) < Version(pulpcore), reason=f"pulpcore has it since {pulpcore}"
    )
