"""How long what remotes sent is used, without a remote."""

from types import SimpleNamespace

from pulpcore.content_star.remote.pull_through import metadata_cache as metadata
from pulpcore.content_star.remote.pull_through.metadata_cache import MetadataEntry


def entry(**headers: str) -> MetadataEntry:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return MetadataEntry(SimpleNamespace(headers=headers), 1)


def test_what_a_failing_remote_sent_once_is_not_used_for_ever(monkeypatch):
    answer = entry(Cache_Control="max-age=0")
    answer.back_off()
    assert answer.may_be_stale
    assert answer.is_fresh, "the remote is not asked while it rests"
    monkeypatch.setattr(metadata, "STALE_IF_ERROR", 0)
    assert not answer.may_be_stale
    assert not answer.is_fresh


def test_an_age_is_part_of_the_lifetime_until_the_remote_confirms_it():
    answer = entry(ETag='"1"', Cache_Control="max-age=60", Age="60")
    assert not answer.is_fresh
    answer.confirm({"ETag": '"2"', "Content-Length": "0", "X-New": "new"})
    assert answer.is_fresh
    assert answer.download.headers == answer.headers
    assert (answer.headers["ETag"], answer.headers["X-New"]) == ('"1"', "new")
    assert "Content-Length" not in answer.headers
