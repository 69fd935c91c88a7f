"""Garbage collection while the process starts."""

import gc

import pytest

from pulpcore.content_star.memory import no_garbage_collection


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
