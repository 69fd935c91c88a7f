"""Garbage collection while the process starts."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from pulpcore.content_star.memory import no_garbage_collection


class Cycle:
    """Garbage that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    """Have the objects of the test run collected again."""
    yield
    gc.unfreeze()


def test_garbage_collection_is_off_in_the_block_alone():
    assert gc.isenabled()
    with pytest.raises(ImportError), no_garbage_collection():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_garbage_collection_that_was_off_stays_off():
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_garbage_collection_leaves_out_what_the_block_made():
    with no_garbage_collection():
        exempt = weakref.ref(Cycle())
    collected = weakref.ref(Cycle())
    gc.collect()
    assert exempt() is not None
    assert collected() is None
