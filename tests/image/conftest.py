"""The image of deploy/Containerfile, built on Debian's Python or on `BASE`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.podman import build, has_image, import_debian, podman

CHECKOUT = Path(__file__).parents[2]
DEBIAN = "localhost/pulp-star-test-debian"
IMAGE = "localhost/pulp-star-test"


@pytest.fixture(scope="session")
def base() -> str:
    """The image to build on: that in the variable BASE, or Debian, which is kept for next time."""
    if shutil.which("podman") is None:
        pytest.skip("needs podman")
    if given := os.environ.get("BASE"):
        return given
    if not has_image(DEBIAN):
        if shutil.which("debootstrap") is None or os.geteuid() != 0:
            pytest.skip("needs debootstrap and root, or an image in the variable BASE")
        import_debian(DEBIAN)
    return DEBIAN


@pytest.fixture(scope="session")
def image(base: str) -> Iterator[str]:
    """The image, as docs/deploying.md has it built."""
    build(IMAGE, base, CHECKOUT)
    yield IMAGE
    podman("rmi", "--force", IMAGE)
