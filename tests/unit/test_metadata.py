"""Freshness of cached metadata of remotes."""

from types import SimpleNamespace

import pytest

from pulpcore.content_star.remote.pull_through.metadata_cache import STALE_IF_ERROR, MetadataEntry


def entry(stale_if_error: float = STALE_IF_ERROR, **headers: str) -> MetadataEntry:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return MetadataEntry(SimpleNamespace(headers=headers), 1, 10, stale_if_error)


@pytest.mark.parametrize(("stale_if_error", "is_used"), [(600, True), (0, False)])
def test_stale_metadata_of_a_failed_remote_is_used_for_a_limited_time(stale_if_error, is_used):
    answer = entry(stale_if_error, Cache_Control="max-age=0")
    assert not answer.is_fresh
    answer.back_off()
    assert answer.may_be_stale == is_used
    assert answer.is_fresh == is_used, "the remote is not requested during the cooldown"


def test_age_header_counts_until_the_remote_revalidates():
    answer = entry(ETag='"1"', Cache_Control="max-age=60", Age="60")
    assert not answer.is_fresh
    answer.confirm({"ETag": '"2"', "Content-Length": "0", "X-New": "new"})
    assert answer.is_fresh
    assert answer.download.headers == answer.headers
    assert (answer.headers["ETag"], answer.headers["X-New"]) == ('"1"', "new")
    assert "Content-Length" not in answer.headers
